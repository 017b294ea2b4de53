"""Judging: what a method does that weighs its modalities by samples it does not train on, with `heads`.

`holdout` of the training split is set aside for budgets, gates, teachers and weights, so that validation stays for
selecting epochs; with holdout=0 they are judged on validation, as some papers do.
"""

from __future__ import annotations

from typing import Any

from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Shape, Split, knob
from mmbal_cli.methods.heads import Heads


class Judging(Heads):
    """`heads`, and a split `aside` to judge by."""

    holdout = knob(0.1, "share of train to judge by; 0: the validation split", source="ours", low=0, high=0.5)

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Refuse to judge by fewer samples than there are classes, too."""
        super().check(shape, fusion, knobs)
        share = knobs["holdout"]
        n, where = (round(share * shape.samples), "held out of training") if share else (shape.validation, "validation")
        classes = shape.occurring or shape.classes
        if n < classes:
            raise UsageError(f"{cls.card.name} weighs modalities by {n} {where} samples of {classes} classes.",
                             "Expected at least one sample for each class.",
                             "--set method.holdout=0.2 (a share of train), or 0 (the validation split)")  # fmt: skip

    def held_out(self) -> float:
        """`holdout`."""
        return self.holdout

    @property
    def aside(self) -> Split:
        """The split to judge by."""
        return "inner" if self.holdout > 0 else "val"
