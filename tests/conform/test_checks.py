"""Each check of the contract finds the fault it is there for, and a sound method passes them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmbal_cli.conform import CHECKS, Finding, Subject, chosen, examine
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, Shape, knob
from mmbal_cli.ops.losses import ce


class Sound(Method):
    """Joint training whose loss is sharpened by a factor."""

    card = Card("sound", "loss", reduces_to="concat at alpha=0")
    alpha = knob(0.5, "more loss", source="ours", low=0, high=4)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        return (1 + self.alpha) * ce(out.fused, batch.y)


class SeedsMix(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        each = super().loss(out, batch)
        return each * each.detach().mean()


class OneNaNForAll(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        each = super().loss(out, batch)
        return each + 0 * each.sum()


class GlobalNoise(Sound):
    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {m: h + 0 * torch.rand_like(h) for m, h in super().encode(batch).items()}


class BatchSoftmax(Sound):
    def predict(self, out: Out) -> Tensor:
        return (out.fused.softmax(-1) * out.fused.softmax(1)).softmax(-1)


class Attribute(Sound):
    steps = 0

    def loss(self, out: Out, batch: Batch) -> Tensor:
        self.steps += 1
        return super().loss(out, batch) * (2 if self.steps > 5 else 1)


class Counts(Sound):
    def build(self) -> None:
        super().build()
        self.register_buffer("count", torch.zeros(self.S))

    def predict(self, out: Out) -> Tensor:
        self.count += 1  # type: ignore[operator]
        return super().predict(out)


class DeadKnob(Sound):
    dead = knob(1.0, "nothing", source="ours", low=0, high=2)


class NoCase(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        return super().loss(out, batch) + 0.1 * self.unimodal_loss(out, batch)


class FirstCounts(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        return super().loss(out, batch) + ce(out.z[self.mods[0]], batch.y)


class NeedsTwo(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        return super().loss(out, batch) + 0 * out.z[self.mods[1]].sum((1, 2))


class Still(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        return 0 * super().loss(out, batch)


class EveryClass(Sound):
    def begin_epoch(self, peek: Peek) -> None:
        y = torch.cat([batch.y for batch in peek.batches("train")], 1)
        self.rate = 1 / torch.nn.functional.one_hot(y, self.C).sum(1).to(self.dtype)  # [S,C]

    def loss(self, out: Out, batch: Batch) -> Tensor:
        return super().loss(out, batch) * self.rate.mean(1)


class OneHead(Sound):
    def loss(self, out: Out, batch: Batch) -> Tensor:
        return super().loss(out, batch) + 0 * self.fusion.head.weight.sum((1, 2))  # type: ignore[union-attr,operator]


class Permissive(Sound):
    @classmethod
    def given(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if name in cls.declared()}


class WrongShape(Sound):
    def classify(self, h: dict[str, Tensor]) -> Out:
        out = super().classify(h)
        return replace(out, unimodal=lambda h: {m: torch.cat([z, z], -1) for m, z in self.fusion.unimodal(h).items()})


FAULTS: dict[type[Method], tuple[str, str]] = {
    SeedsMix: ("stacked-equals-solo", "differs by"),
    OneNaNForAll: ("failure-stays-apart", "expected [0, -1, -1]"),
    GlobalNoise: ("repeats", "global generator"),
    BatchSoftmax: ("own-sample-only", "differs by"),
    Attribute: ("resumes", "differs by"),
    Counts: ("leaves-no-trace", "count changed"),
    DeadKnob: ("knobs-act", "method.dead=2.0 changes nothing"),
    NoCase: ("special-case", "differs from concat's"),
    FirstCounts: ("any-order", "differs by"),
    NeedsTwo: ("trains", "IndexError: tuple index out of range (test_checks.py"),
    Still: ("learns", "on a set that concat learns"),
    EveryClass: ("missing-class", "stopped at steps [0, 0, 0]"),
    OneHead: ("every-fusion", "has no attribute 'head'"),
    Permissive: ("refuses", "is not refused"),
    WrongShape: ("trains", "logits of audio are (3, 20, 8)"),
}


def find(cls: type[Method], name: str, **knobs: object) -> Finding:
    (check,) = chosen([name])
    return examine(check, Subject(cls, knobs))


@pytest.mark.parametrize("cls", list(FAULTS), ids=lambda cls: cls.__name__)
def test_a_fault_is_found_and_named(cls: type[Method]) -> None:
    name, words = FAULTS[cls]
    finding = find(cls, name)
    assert finding.verdict == "breaks"
    assert words in finding.detail


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_a_sound_method_passes(check: object) -> None:
    assert examine(check, Subject(Sound)).verdict == "holds"  # type: ignore[arg-type]


def test_checks_without_a_say_tell_why() -> None:
    class Ordered(FirstCounts):
        card = replace(Sound.card, ordered="the first modality counts twice", reduces_to="")

    assert find(Ordered, "any-order") == (chosen(["any-order"])[0], "none", "the first modality counts twice")
    assert find(Ordered, "special-case").verdict == "none"


def test_a_card_with_limits_must_refuse_what_is_outside() -> None:
    class Pairs(Sound):
        card = replace(Sound.card, max_modalities=2)

        @classmethod
        def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
            """Refuses nothing."""

    assert "M = 3 is outside the card's limits" in find(Pairs, "trains").detail


def test_settings_of_the_card_make_a_late_knob_act() -> None:
    class Late(Sound):
        card = replace(Sound.card, reduces_to="", exercise={"start": 1})
        start = knob(50, "first epoch of the factor", source="ours", low=0)

        def loss(self, out: Out, batch: Batch) -> Tensor:
            return super().loss(out, batch) if self.epoch >= self.start else ce(out.fused, batch.y)

    assert find(Late, "knobs-act").verdict == "holds"
    assert find(Late, "knobs-act", start=50).verdict == "breaks"


def test_an_unknown_check_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="any-order"):
        chosen(["any-oder"])
