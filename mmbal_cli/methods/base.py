"""The one method interface: override the smallest hook that suffices.

    build()                adapters, fusion, extra heads and buffers
    optimizer()            one optimizer over all parameters
    encode(batch) -> h     adapters;          classify(h) -> Out     fusion and per-modality logits
    loss(out, batch) [S]   cross-entropy of the fused logits
    modulate(out, batch)   after backward, before the update: edit `p.grad` in place
    step(batch) -> [S]     a whole step, for methods with several backward passes
    phases()               named stretches of epochs;  begin_epoch(peek), end_epoch(peek)
    predict(out)           probabilities [S,B,C]

Three rules make a method stack-safe: reduce the batch with `dim=1` only and never dimension 0, branch with
`torch.where` only, draw randomness from `self.rng` only. State is buffers and parameters with a leading S, so
checkpoint, resume and device moves come for free. A method never sees disk, console or the test split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mmbal_cli.errors import RecipeError, UsageError, nearest
from mmbal_cli.nn.adapters import adapter
from mmbal_cli.nn.fusion import FUSIONS, fusion_class
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import PerModality
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams


@dataclass(frozen=True)
class Batch:
    """One step's data: x[m] [S,B,...], y [S,B], idx [S,B] (rows of the split); mask[m] None = all present."""

    x: dict[str, Tensor]
    y: Tensor
    idx: Tensor
    mask: dict[str, Tensor | None]

    def present(self, m: str) -> Tensor | None:
        """[S,B] bool: which samples have modality `m`; None when all have."""
        mask = self.mask[m]
        return mask.any(-1) if mask is not None and mask.dim() == 3 else mask


@dataclass
class Out:
    """One forward pass: h[m] [S,B,D] features, fused [S,B,C] logits, z[m] [S,B,C] per-modality logits.

    `z` is computed when a method first asks for it: plain training never does.
    """

    h: dict[str, Tensor]
    fused: Tensor
    unimodal: Callable[[dict[str, Tensor]], dict[str, Tensor]]
    extra: dict[str, Tensor] = field(default_factory=dict)

    @cached_property
    def z(self) -> dict[str, Tensor]:
        """Logits of each modality, from the fusion's own rule."""
        return self.unimodal(self.h)


@dataclass(frozen=True)
class Phase:
    """A named stretch of epochs; `step` may look at `self.phase`."""

    name: str
    epochs: int


@dataclass(frozen=True)
class Shape:
    """What a method may know of the data: feature shape (F,) or (T,F) of each modality, classes, samples."""

    modalities: dict[str, tuple[int, ...]]
    classes: int
    samples: int


@dataclass(frozen=True)
class Card:
    """What `methods show` prints and what is refused before training."""

    name: str
    kind: str
    paper: str = ""
    code: str = ""
    changes: str = ""
    deviates: tuple[str, ...] = ()
    fusions: tuple[str, ...] = tuple(FUSIONS)
    min_modalities: int = 1
    max_modalities: int | None = None
    reference: bool = False
    scales_gradients: bool = False
    reduces_to: str = ""
    backwards: int = 1


class Peek(Protocol):
    """Views of whole splits for the epoch hooks; there is no way to ask for the test split."""

    def losses(self, split: Literal["train", "val"]) -> dict[str, Tensor]:
        """Mean cross-entropy [S] of `fused` and each modality."""

    def accuracy(self, split: Literal["train", "val"]) -> dict[str, Tensor]:
        """Accuracy [S] of `fused` and each modality."""

    def batches(self, split: Literal["train", "val"]) -> Iterator[Batch]:
        """The split in order, in evaluation batches."""


@dataclass
class Knob:
    """One hyper-parameter of a method: default, help, where the default comes from, and what is valid."""

    default: Any
    help: str
    source: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    def __get__(self, instance: Method | None, owner: type) -> Any:
        return self if instance is None else instance.knobs[self.name]

    def convert(self, value: Any, method: str) -> Any:
        """`value` in the type of the default, or a RecipeError that names the valid range."""
        kind = type(self.default)
        try:
            if kind is bool:
                text = str(value).lower()
                if text not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
                    raise ValueError
                converted: Any = text in {"true", "1", "yes", "on"}
            else:
                converted = kind(str(value)) if kind is not float else float(value)
        except (TypeError, ValueError):
            raise RecipeError(
                f"method.{self.name}={value!r} of {method} is no {kind.__name__}.", self.valid()
            ) from None
        outside = isinstance(converted, (int, float)) and not (
            (self.low is None or converted >= self.low) and (self.high is None or converted <= self.high)
        )
        if outside or (self.choices and converted not in self.choices):
            raise RecipeError(f"method.{self.name}={value} of {method} is out of range.", self.valid())
        return converted

    def valid(self) -> str:
        """One sentence: the type and the range or the choices."""
        if self.choices:
            return f"Expected one of {', '.join(self.choices)}."
        low = "" if self.low is None else f" from {self.low:g}"
        high = "" if self.high is None else f" to {self.high:g}"
        return f"Expected {type(self.default).__name__}{low}{high}."


def knob(
    default: Any,
    help: str,
    *,
    source: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
) -> Any:
    """Declare a hyper-parameter in a class body, read it as an attribute; `name` when a hook has that name."""
    return Knob(default, help, source, low, high, choices, name)


class Method(nn.Module):
    """Joint training of all modalities with one fusion: the base that every method refines."""

    card: ClassVar[Card]
    alive: Tensor

    @classmethod
    def declared(cls) -> dict[str, Knob]:
        """The method's knobs by name, base classes first."""
        found: dict[str, Knob] = {}
        for base in reversed(cls.__mro__):
            found |= {value.name: value for value in vars(base).values() if isinstance(value, Knob)}
        return found

    @classmethod
    def resolve(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Defaults overridden by `values`, converted and checked; unknown names are refused."""
        declared = cls.declared()
        for name in values:
            if name not in declared:
                raise RecipeError(f"{cls.card.name} has no knob '{name}'.", nearest(name, declared),
                                  f"mmbal methods show {cls.card.name}")  # fmt: skip
        return {name: k.convert(values.get(name, k.default), cls.card.name) for name, k in declared.items()}

    @classmethod
    def check(cls, shape: Shape, fusion: str) -> None:
        """Refuse what the card does not allow, with the reason and what is supported."""
        card, M = cls.card, len(shape.modalities)
        if fusion not in FUSIONS:
            raise UsageError(f"Unknown fusion '{fusion}'.", nearest(fusion, FUSIONS))
        if fusion not in card.fusions:
            raise UsageError(f"{card.name} does not support fusion '{fusion}'.", nearest(fusion, card.fusions))
        if card.min_modalities > M or (card.max_modalities is not None and card.max_modalities < M):
            upper = "" if card.max_modalities is None else f" to {card.max_modalities}"
            raise UsageError(f"{card.name} cannot train on {M} modalities.",
                             f"It supports {card.min_modalities}{upper or ' or more'}.")  # fmt: skip
        limit = fusion_class(fusion).max_modalities
        if limit is not None and limit < M:
            raise UsageError(f"Fusion '{fusion}' takes at most {limit} modalities; the data have {M}.")

    def __init__(self, shape: Shape, config: TrainConfig, seeds: tuple[int, ...], fusion: str = "concat",
                 knobs: dict[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__()
        self.knobs = self.resolve(knobs or {})
        self.check(shape, fusion)
        self.shape, self.config, self.fusion_name = shape, config, fusion
        self.dtype = getattr(torch, config.dtype)
        self.rng = SeedStreams(seeds)
        self.S, self.C, self.D = len(self.rng.seeds), shape.classes, config.width
        self.mods = self.modalities()
        self.epoch, self.phase, self.phase_epochs = 0, "train", config.epochs
        self.register_buffer("alive", torch.ones(self.S, dtype=torch.bool), persistent=False)
        self.hold: Tensor | None = None  # the engine sets it to `alive` as soon as one seed has failed
        self._log: dict[str, tuple[Tensor, int]] = {}
        self.build()
        self.opt = self.optimizer()

    # ------------------------------------------------------------------------------------- hooks

    def modalities(self) -> tuple[str, ...]:
        """The modalities this model uses, in the order of the data set."""
        return tuple(self.shape.modalities)

    def build(self) -> None:
        """Adapters and fusion."""
        self.enc = PerModality(
            {m: adapter(self.rng, m, self.shape.modalities[m], self.config, self.dtype) for m in self.mods}
        )
        self.fusion = fusion_class(self.fusion_name)(self.rng, self.mods, self.D, self.C, self.dtype)

    def optimizer(self) -> StackedOptimizer:
        """One optimizer over all parameters."""
        return StackedOptimizer(self.parameters(), self.config)

    def phases(self) -> list[Phase]:
        """One stretch of training."""
        return [Phase("train", self.config.epochs)]

    def begin_epoch(self, peek: Peek) -> None:
        """Called before each epoch, in evaluation mode."""

    def end_epoch(self, peek: Peek) -> None:
        """Called after each epoch, in evaluation mode."""

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        """h[m] [S,B,D]."""
        return {m: self.enc[m](batch.x[m], batch.mask[m]) for m in self.mods}

    def classify(self, h: dict[str, Tensor]) -> Out:
        """Fused and per-modality logits of features h."""
        return Out(h, self.fusion.logits(h), self.fusion.unimodal)

    def forward(self, batch: Batch) -> Out:
        """encode, then classify."""
        return self.classify(self.encode(batch))

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy of the fused logits, [S]."""
        return ce(out.fused, batch.y)

    def modulate(self, out: Out, batch: Batch) -> None:
        """Edit gradients in place between backward and update."""

    def step(self, batch: Batch) -> Tensor:
        """One training step; returns the loss [S], detached."""
        out = self(batch)
        each = self.loss(out, batch)
        self.update(each, out, batch)
        return each.detach()

    def update(self, each: Tensor, out: Out, batch: Batch) -> None:
        """Backward of the sum over seeds (they share nothing, so each keeps its own gradient), then the step."""
        self.opt.zero_grad()
        each.backward(torch.ones_like(each))
        with torch.no_grad():
            self.modulate(out, batch)
        self.opt.step(self.hold)

    def predict(self, out: Out) -> Tensor:
        """Probabilities [S,B,C]."""
        return out.fused.softmax(-1)

    def selects(self, parameter: str) -> str:
        """Which validation score picks the epoch of this state entry: `fused` or a modality."""
        return "fused"

    # ----------------------------------------------------------------------------------- records

    def log(self, name: str, value: Tensor) -> None:
        """Record a number for each seed [S]; the engine stores its mean over the epoch."""
        total, count = self._log.get(name, (torch.zeros_like(value), 0))
        self._log[name] = (total + value.detach(), count + 1)

    def collect(self) -> dict[str, Tensor]:
        """Means [S] of what was logged since the last call."""
        means = {name: total / count for name, (total, count) in self._log.items()}
        self._log = {}
        return means
