"""A student at the start of its phase, its teachers trained by the engine; and both, sample by sample."""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Method
from tests.methods import reference


def begin_student(method: Method, data: object) -> Fit:
    """Train the teachers, then begin `train` as the engine does."""
    run = Fit(method, data)
    rows = run.run()
    while run.finished < method.config.epochs:
        assert next(rows)[0]["phase"] == "teachers"
    run.aim(run.phases[1])
    run.begin(1)
    method.train()
    return run


def teacher_of(p: reference.Params) -> reference.Params:
    """The teachers' weights out of a student's, under the names of an encoder's."""
    prefix = "teachers.module."
    return {k.removeprefix(prefix): v.detach() for k, v in p.items() if k.startswith(prefix)}


def teacher_logits(p: reference.Params, m: str, x: Tensor) -> Tensor:
    """z^T_m of one sample."""
    t = teacher_of(p)
    return reference.adapter(t, m, x) @ t[f"heads.{m}_.weight"] + t[f"heads.{m}_.bias"][0]


def concat_logits(p: reference.Params, mods: tuple[str, ...], sample: dict[str, Tensor]) -> Tensor:
    """Fused logits of one sample: a product for each block of the head."""
    W, b, D = p["fusion.head.weight"], p["fusion.head.bias"][0], p["fusion.head.weight"].shape[0] // len(mods)
    return sum((reference.adapter(p, m, sample[m]) @ W[j * D : (j + 1) * D] for j, m in enumerate(mods)), b)
