"""The one method interface: override the smallest hook that suffices.

    build()                adapters, fusion, extra heads and buffers
    optimizer()            one optimizer over all parameters, made at the start of every phase
    encode(batch) -> h     adapters;          classify(h) -> Out     fusion and per-modality logits
    loss(out, batch) [S]   cross-entropy of the fused logits
    modulate(out, batch)   after backward, before the update: edit `p.grad` in place
    step(batch) -> [S]     a whole step, for methods with several backward passes
    phases()               named stretches of epochs;  begin_phase(peek), begin_epoch(peek), end_epoch(peek)
    held_out()             share of the training split that is set aside for budgets, weights and gates
    draw(peek)             which samples an epoch trains on
    predict(out)           probabilities [S,B,C]

Three rules make a method stack-safe: reduce the batch with `dim=1` only and never dimension 0, branch with
`torch.where` only, draw randomness from `self.rng` only. State is buffers and parameters with a leading S, so
checkpoint, resume and device moves come for free. A method never sees disk, console or the test split; only a
transductive one (`see`) gets the features, never the labels, of all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from mmbal_cli.errors import RecipeError, UsageError, nearest
from mmbal_cli.methods.knobs import Knob, knob
from mmbal_cli.nn.adapters import adapter
from mmbal_cli.nn.fusion import GENERAL, fusion_class, make_fusion
from mmbal_cli.nn.optim import StackedOptimizer
from mmbal_cli.nn.stacked import PerModality, total
from mmbal_cli.ops.losses import both, ce
from mmbal_cli.ops.mixing import mean_of_present
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams

__all__ = ["Batch", "Card", "Knob", "Method", "Out", "Part", "Peek", "Phase", "Shape", "Split", "View", "knob"]

OWN_HEAD = "none"  # the fusion of methods that bring their own head


@dataclass(frozen=True)
class Batch:
    """One step's data: x[m] [S,B,...], y [S,B], idx [S,B] (rows of the split); mask[m] None = all present.

    `rows` [S,B] are rows of the whole data set: the nodes of a transductive encoder's graph. Batches of a `Part` also
    say which samples count (`valid` [S,B]), what is kept of them (`keep[m]` [S,B]; empty = all), the part's name, and
    which seeds have a sample at all (`awake`; None = all).
    """

    x: dict[str, Tensor]
    y: Tensor
    idx: Tensor
    mask: dict[str, Tensor | None]
    rows: Tensor | None = None
    valid: Tensor | None = None
    keep: dict[str, Tensor] = field(default_factory=dict)
    part: str = ""
    awake: tuple[bool, ...] | None = None

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


Split = Literal["train", "val", "inner"]


@dataclass(frozen=True)
class View:
    """Outputs on a whole split, without gradient: fused [S,N,C], z[m] [S,N,C], y [S,N], present[m] [S,N] bool."""

    fused: Tensor
    z: dict[str, Tensor]
    y: Tensor
    present: dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Samples to train on, for each seed: idx [S,L] rows of the training split, in batches of `config.batch`.

    L is a multiple of the batch size, filled up by samples that are not `valid` [S,L]: so a seed sees the same
    batches alone and in company. `keep[m]` [S,L] says of which samples a method keeps modality m.
    """

    idx: Tensor
    valid: Tensor
    keep: dict[str, Tensor] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True)
class Phase:
    """A named stretch of epochs over the samples of `data`; `step` may look at `self.phase`.

    Each phase has its own optimizer, schedule and selection. The next phase starts from the best validation epoch
    of this one (`keep_best`), else from its last; the best epoch of the last phase is the result.
    """

    name: str
    epochs: int
    data: Split = "train"
    keep_best: bool = True


@dataclass(frozen=True)
class Shape:
    """What a method may know of the data: feature shape (F,) or (T,F) of each modality, classes, how many samples."""

    modalities: dict[str, tuple[int, ...]]
    classes: int
    samples: int  # to train on
    validation: int
    occurring: int = 0  # classes that have samples; 0 = all


@dataclass(frozen=True)
class Card:
    """What `methods show` prints and what is refused before training.

    `fusions` are the names that `--fusion` accepts, the default first, with their `variants` unless told otherwise;
    none where a method brings its own head.
    `reduces_to` reads "METHOD at knob=value, knob=value" and is checked by training both. `ordered` says why the order
    of the modalities matters; without it the method must not care. `exercise` are knobs under which a run of four
    epochs does everything that the method can do.
    """

    name: str
    kind: str
    paper: str = ""
    code: str = ""
    changes: str = ""
    deviates: tuple[str, ...] = ()
    fusions: tuple[str, ...] = GENERAL
    min_modalities: int = 1
    max_modalities: int | None = None
    reference: bool = False
    scales_gradients: bool = False
    reduces_to: str = ""
    ordered: str = ""
    exercise: dict[str, Any] = field(default_factory=dict)
    backwards: int = 1
    stages: str = ""
    holds_out: str = ""
    reconstructed: bool = False
    variants: bool = True


class Peek(Protocol):
    """Views of whole splits for the epoch hooks; there is no way to ask for the test split."""

    def losses(self, split: Split) -> dict[str, Tensor]:
        """Mean cross-entropy [S] of `fused` and each modality."""

    def accuracy(self, split: Split) -> dict[str, Tensor]:
        """Accuracy [S] of `fused` and each modality."""

    def outputs(self, split: Split) -> View:
        """Logits, labels and masks of the whole split."""

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split in order, in evaluation batches."""

    def epoch(self, split: Split) -> Iterator[Batch]:
        """One shuffled pass in training batches, for side trainings; the order of training is untouched."""

    def sample(self, split: Split, n: int) -> Batch:
        """n random samples for each seed, without replacement; all of them when there are no more."""


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
    def given(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` of knobs converted and checked; unknown names are refused."""
        declared = cls.declared()
        for name in values:
            if name not in declared:
                raise RecipeError(f"{cls.card.name} has no knob '{name}'.", nearest(name, declared),
                                  f"mmbal methods show {cls.card.name}")  # fmt: skip
        return {name: declared[name].convert(value, cls.card.name) for name, value in values.items()}

    @classmethod
    def resolve(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """All knobs: defaults overridden by `values`."""
        return cls.given({name: k.default for name, k in cls.declared().items()} | dict(values))

    @classmethod
    def check(cls, shape: Shape, fusion: str, knobs: dict[str, Any]) -> None:
        """Refuse what the card does not allow, with the reason and what is supported."""
        card, M = cls.card, len(shape.modalities)
        cls.check_fusion(fusion)
        if card.min_modalities > M or (card.max_modalities is not None and card.max_modalities < M):
            upper = "" if card.max_modalities is None else f" to {card.max_modalities}"
            raise UsageError(f"{card.name} cannot train on {M} modalities.",
                             f"It supports {card.min_modalities}{upper or ' or more'}.")  # fmt: skip

    @classmethod
    def check_fusion(cls, fusion: str) -> None:
        """Refuse a fusion that is unknown, or not for this method."""
        if not cls.card.fusions:
            if fusion != OWN_HEAD:
                raise UsageError(f"{cls.card.name} brings its own head: fusion '{fusion}' has no place in it.")
            return
        fusion_class(fusion)
        base, colon, _ = fusion.partition(":")
        if base not in cls.card.fusions or (colon and not cls.card.variants):
            raise UsageError(f"{cls.card.name} does not support fusion '{fusion}'.", nearest(fusion, cls.card.fusions))

    @classmethod
    def default_fusion(cls) -> str:
        """The first of the card's fusions; `none` for a method with its own head."""
        return (*cls.card.fusions, OWN_HEAD)[0]

    def __init__(self, shape: Shape, config: TrainConfig, seeds: tuple[int, ...], fusion: str = "concat",
                 knobs: dict[str, Any] | None = None) -> None:  # fmt: skip
        super().__init__()
        self.knobs = self.resolve(knobs or {})
        self.check(shape, fusion, self.knobs)
        self.shape, self.config, self.fusion_name = shape, config, fusion
        self.dtype = getattr(torch, config.dtype)
        self.rng = SeedStreams(seeds)
        self.S, self.C, self.D = len(self.rng.seeds), shape.classes, config.width
        self.mods = self.modalities()
        self.epoch, self.phase, self.phase_epochs = 0, "train", config.epochs
        self.register_buffer("alive", torch.ones(self.S, dtype=torch.bool), persistent=False)
        self.hold: Tensor | None = None  # the engine sets it to `alive` as soon as one seed has failed
        self.moving: Tensor | None = None  # [S], where not every seed has a sample in the batch
        self._log: dict[str, tuple[Tensor, Tensor]] = {}
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
        if self.fusion_name != OWN_HEAD:
            self.fusion = make_fusion(self.fusion_name, self.rng, self.mods, self.D, self.C, self.dtype)

    def optimizer(self) -> StackedOptimizer:
        """One optimizer over all parameters that learn."""
        uneven = type(self).draw is not Method.draw  # lists of samples may differ in length
        return StackedOptimizer((p for p in self.parameters() if p.requires_grad), self.config, uneven)

    def phases(self) -> list[Phase]:
        """One stretch of training."""
        return [Phase("train", self.config.epochs)]

    def side_epochs(self) -> int:
        """Epochs of side trainings in the whole run: tables count them among those of all stages."""
        return 0

    def held_out(self) -> float:
        """Share of the training split that no `train` phase sees: the split `inner`. Stratified, whole groups."""
        return 0.0

    def see(self, x: dict[str, Tensor], mask: dict[str, Tensor | None]) -> None:
        """Features x[m] [N,...] of all samples, without labels or splits; called once, for transductive encoders."""

    def draw(self, peek: Peek) -> Sequence[Part] | None:
        """Samples of this epoch, after `begin_epoch`; None = every training sample once, in random order."""
        return None

    def begin_phase(self, peek: Peek) -> None:
        """Called when `self.phase` begins, in evaluation mode, before its optimizer is made."""

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
        return ce(out.fused, batch.y, batch.valid)

    def unimodal_loss(self, out: Out, batch: Batch) -> Tensor:
        """Sum over modalities of the cross-entropy of their own logits, each over the samples that have it; [S]."""
        return total(ce(out.z[m], batch.y, both(batch.present(m), batch.valid)) for m in self.mods)

    def mean_logits(self, out: Out, batch: Batch) -> Tensor:
        """Mean of the per-modality logits over the modalities that a sample has, [S,B,C]."""
        return mean_of_present([out.z[m] for m in self.mods], [batch.present(m) for m in self.mods])

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
        self.opt.step(self.holding(batch))

    def holding(self, batch: Batch) -> Tensor | None:
        """Which seeds [S] may move in this batch; None = all."""
        if batch.awake is None:
            return self.hold
        awake = torch.tensor(batch.awake, device=self.alive.device)
        return awake if self.hold is None else awake & self.hold

    def predict(self, out: Out) -> Tensor:
        """Probabilities [S,B,C]."""
        return out.fused.softmax(-1)

    def selects(self, parameter: str) -> str:
        """Which validation score picks the epoch of this state entry: `fused` or a modality."""
        return "fused"

    # --------------------------------------------------------------------------------------- state

    def owner(self, entry: str) -> str:
        """The modality whose adapter or head a state entry belongs to, else `fused`."""
        return next((m for m in self.mods if f".{m}_." in f".{entry}"), "fused")

    def initial(self) -> dict[str, Tensor]:
        """The state this method had when it was built: drawn again from the seeds' streams, nothing is stored."""
        twin = type(self)(self.shape, self.config, self.rng.seeds, self.fusion_name, self.knobs)
        return {name: value.to(self.alive.device) for name, value in twin.state_dict().items()}

    # ----------------------------------------------------------------------------------- records

    def log(self, name: str, value: Tensor) -> None:
        """Record a number for each seed [S]; the engine stores its mean over the epoch."""
        value = value.detach()
        one = torch.ones_like(value)
        if self.moving is not None:
            value, one = (torch.where(self.moving, each, 0.0) for each in (value, one))
        total, count = self._log.get(name, (0.0, 0.0))
        self._log[name] = (total + value, count + one)

    def collect(self) -> dict[str, Tensor]:
        """Means [S] of what was logged since the last call."""
        means = {name: total / count.clamp_min(1) for name, (total, count) in self._log.items()}
        self._log = {}
        return means
