"""The contract that every method passes, as functions: each raises `Broken` with what it found, or `Skip`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mmbal_cli.conform.samples import CONFIG, feature_set, feed
from mmbal_cli.conform.subject import SEEDS, Skip, Subject, answers, apart, demand, fitted, gap, states
from mmbal_cli.engine.feed import SplitPeek, predictions, scores
from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import RecipeError, UsageError
from mmbal_cli.methods import method_class
from mmbal_cli.methods.base import Method
from mmbal_cli.methods.knobs import Knob
from mmbal_cli.nn.fusion import FUSIONS
from mmbal_cli.recipe import TrainConfig

SOLO = 1e-12  # stacked against solo, float64
NEIGHBOUR = 1e-6  # a prediction and its batch neighbours
EXACT = 1e-9  # a special case, or another order of the modalities, after a whole training in float64
EASY = 0.95


def config(**values: Any) -> TrainConfig:
    """The checks' training settings with others in their place."""
    return TrainConfig(**(CONFIG.model_dump() | values))


def trains(subject: Subject) -> None:
    """Trains with M = 1 to 4 to finite losses and outputs of the right shape, or refuses as its card says."""
    for M in range(1, 5):
        data = feed(feature_set(M))
        if M not in subject.sizes:
            try:
                subject.build(data)
            except UsageError:
                continue
            demand(False, f"M = {M} is outside the card's limits, and is not refused")
        method = subject.build(data)
        rows = [row for epoch in Fit(method, data).run() for row in epoch]
        demand(all(math.isfinite(row["train/loss"]) for row in rows), f"M = {M}: a loss is not finite")
        out = method(next(data.split("val", method.S)))
        shape = (len(SEEDS), len(data.rows["val"]), 4)
        demand(out.fused.shape == shape, f"M = {M}: fused logits are {tuple(out.fused.shape)}, expected {shape}")
        for m in method.mods:
            demand(out.z[m].shape == shape, f"M = {M}: logits of {m} are {tuple(out.z[m].shape)}, expected {shape}")
            demand(out.h[m].shape[:2] == shape[:2], f"M = {M}: features of {m} are {tuple(out.h[m].shape)}")


def stacked_equals_solo(subject: Subject) -> None:
    """Seeds trained at once equal each seed alone, also with missing modalities (float64, 1e-12)."""
    for M in subject.sizes:
        for absent in (0.0, 0.3):
            data = feed(feature_set(M, absent=absent))
            stacked = fitted(subject.build(data), data).method
            for i, seed in enumerate(SEEDS):
                far, name = apart(stacked, fitted(subject.build(data, (seed,)), data).method, i)
                demand(far <= SOLO, f"M = {M}, {absent:.0%} missing: {name} of seed {seed} differs by {far:.1e}")


def same_bits(subject: Subject) -> None:
    """On a CPU in float32, a seed has the same bits alone and in company, for odd sizes too."""
    M = min(3, max(subject.sizes))
    for classes, batch in ((6, 16), (5, 37)):  # the second one: nothing is a multiple of four
        data = feed(feature_set(M, classes=classes, absent=0.1), "float32")
        settings = config(dtype="float32", width=64, clip=0.5, batch=batch)
        stacked = fitted(subject.build(data, (1, 2, 3, 4, 5), settings), data).method
        for group in ((2,), (4, 5)):
            part = fitted(subject.build(data, group, settings), data).method
            for row, seed in enumerate(group):
                far, name = apart(stacked, part, seed - 1, row)
                demand(far == 0, f"batch {batch}, {classes} classes: {name} of seed {seed} differs by {far:.1e}")


def failure_stays_apart(subject: Subject) -> None:
    """A seed whose numbers are not finite is stopped; the others keep every bit."""
    data = feed(feature_set(min(3, max(subject.sizes))))
    clean, hurt = subject.build(data), subject.build(data)
    with torch.no_grad():
        next(hurt.parameters())[0] = torch.nan
    clean_fit, hurt_fit = fitted(clean, data), fitted(hurt, data)
    died = hurt_fit.died.tolist()
    demand(died == [0, -1, -1], f"seeds stopped at steps {died}: expected [0, -1, -1]")
    for i in (1, 2):
        far, name = apart(clean, hurt, i, i)
        demand(far == 0, f"{name} of a sound seed differs by {far:.1e}")
        demand(
            all(torch.equal(clean_fit.chosen.state[k][i], v[i]) for k, v in hurt_fit.chosen.state.items()),
            "another epoch is best",
        )


def resumes(subject: Subject) -> None:
    """Stopped after any epoch of any phase and loaded again, a run ends with the same bits and records."""
    data = feed(feature_set(max(2, min(subject.sizes)), absent=0.1))
    settings = config(dropout=0.2)
    whole = Fit(subject.build(data, SEEDS, settings), data)
    expected = [row for rows in whole.run() for row in rows]
    part, rows = Fit(subject.build(data, SEEDS, settings), data), []
    while part.finished < sum(phase.epochs for phase in part.phases):
        rows += next(iter(part.run()))
        tensors, meta = part.state()
        part = Fit(subject.build(data, SEEDS, settings), data)
        part.load({k: v.clone() for k, v in tensors.items()}, meta)
    for i in range(len(SEEDS)):
        far, name = apart(whole.method, part.method, i, i)
        demand(far == 0, f"{name} differs by {far:.1e}")
    different = [name for name, value in whole.chosen.state.items() if gap(value, part.chosen.state[name]) > 0]
    demand(not different, f"the best epoch's {', '.join(different[:3])} differ")
    timeless = [[{k: v for k, v in row.items() if k != "seconds"} for row in found] for found in (rows, expected)]
    demand(timeless[0] == timeless[1], "the records differ")


def repeats(subject: Subject) -> None:
    """The same seeds twice give the same bits, and randomness comes from the seeds' streams alone."""
    data = feed(feature_set(min(3, max(subject.sizes))), "float32")
    before = torch.get_rng_state()
    one, other = (fitted(subject.build(data, config=config(dtype="float32")), data).method for _ in range(2))
    demand(torch.equal(before, torch.get_rng_state()), "torch's global generator was used, not self.rng")
    for i in range(len(SEEDS)):
        far, name = apart(one, other, i, i)
        demand(far == 0, f"{name} differs by {far:.1e}")


def own_sample_only(subject: Subject) -> None:
    """Probabilities sum to 1, and a prediction depends neither on its neighbours in the batch nor on their order."""
    data = feed(feature_set(min(3, max(subject.sizes)), absent=0.2))
    run = fitted(subject.build(data), data)
    run.use_best()
    whole = answers(run.method, data, "test")
    demand(gap(whole.sum(-1), torch.ones_like(whole[..., 0])) <= 1e-6, "probabilities do not sum to 1")
    order = torch.randperm(len(data.rows["test"]), generator=torch.Generator().manual_seed(0))
    data.rows["test"] = data.rows["test"][order]
    far = gap(answers(run.method, data, "test"), whole[:, order])
    demand(far <= NEIGHBOUR, f"in another order, a probability differs by {far:.1e}")
    data.rows["test"] = data.rows["test"][:1]
    far = gap(answers(run.method, data, "test")[:, 0], whole[:, order[0]])
    demand(far <= NEIGHBOUR, f"alone in its batch, a probability differs by {far:.1e}")


def learns(subject: Subject) -> None:
    """Learns an easy set: at least 95% on validation."""
    for M in subject.sizes:
        data = feed(feature_set(M, n=120, easy=3.0))
        run = fitted(subject.plain(data, config=config(epochs=25, width=16)), data)
        run.use_best()
        worst = float(scores(run.method, data.split("val", len(SEEDS)))["accuracy"].min())
        demand(worst >= EASY, f"M = {M}: accuracy {worst:.1%} on a set that concat learns")


def sealed(subject: Subject) -> None:
    """Test labels reach nothing: with others in their place training and selection keep every bit."""
    features = feature_set(max(2, min(subject.sizes)))
    data, shuffled = feed(features), feed(features)
    shuffled.y[shuffled.rows["test"]] = 0
    method = subject.build(data)
    try:
        next(iter(SplitPeek(method, data).batches("test")))  # type: ignore[arg-type]
        demand(False, "a peek shows the test split")
    except UsageError:
        pass
    own, other = fitted(method, data), fitted(subject.build(shuffled), shuffled)
    demand(
        all(torch.equal(value, other.chosen.state[name]) for name, value in own.chosen.state.items()), "results differ"
    )


def leaves_no_trace(subject: Subject) -> None:
    """Evaluation changes neither weights nor buffers nor random streams."""
    data = feed(feature_set(min(3, max(subject.sizes))))
    method = fitted(subject.build(data), data).method
    before = {name: value.clone() for name, value in states(method)}
    streams = {name: value.clone() for name, value in method.rng.state().items()}
    predictions(method.eval(), data, "val")
    changed = [name for name, value in states(method) if not torch.equal(value, before[name])]
    demand(not changed, f"{', '.join(changed[:3])} changed")
    moved = [name for name, value in method.rng.state().items() if not torch.equal(value, streams.get(name, value[:0]))]
    demand(not moved, f"stream {', '.join(moved[:3])} moved")


def missing_class(subject: Subject) -> None:
    """A class that never occurs in training does no harm."""
    features = feature_set(max(2, min(subject.sizes)), classes=4)
    features.y[features.rows["train"]] %= 3
    data = feed(features)
    died = fitted(subject.build(data), data).died.tolist()
    demand(died == [-1] * len(SEEDS), f"seeds stopped at steps {died}")


def any_order(subject: Subject) -> None:
    """Another order of the modalities, with the same first weights, gives the same predictions."""
    if subject.cls.card.ordered:
        raise Skip(subject.cls.card.ordered)
    M = min(3, max(subject.sizes))
    if M < 2:
        raise Skip("one modality has one order")
    features = feature_set(M, classes=5, easy=1.0, absent=0.1)  # easy: equal scores would be ties, not faults
    data, other = feed(features), feed(features)
    order = [*range(1, M), 0]
    names = list(data.x)
    other.features = replace(other.features, x={names[i]: other.features.x[names[i]] for i in order})
    one, two = subject.build(data), subject.build(other)
    first = {name: value.clone() for name, value in states(one)}
    first |= {name: _reordered(v, order, CONFIG.width) for name, v in first.items() if one.owner(name) == "fused"}
    two.load_state_dict(first)
    two.initial = lambda: first  # type: ignore[method-assign]
    fitted(one, data)
    fitted(two, other)
    far = gap(answers(one, data), answers(two, other))
    demand(far <= EXACT, f"a probability differs by {far:.1e}")


def _reordered(value: Tensor, order: list[int], width: int) -> Tensor:
    """A state entry of the whole model [S,...] with the parts of its M modalities in another order.

    Sizes tell the layout: M numbers, M blocks of features, or M numbers twice. The data have no such number of classes.
    """
    M = len(order)
    for d in range(1, value.dim()):
        layouts = {M: (1, M, 1), M * width: (1, M, width), 2 * M: (2, M, 1)}
        if value.shape[d] in layouts:
            parts = value.unflatten(d, layouts[value.shape[d]]).index_select(d + 1, torch.tensor(order))
            value = parts.flatten(d, d + 2)
    return value


def special_case(subject: Subject) -> None:
    """With neutral coefficients it equals the method that its card names (float64, 1e-9)."""
    card = subject.cls.card
    if not card.reduces_to:
        raise Skip("its card names no exact special case")
    name, _, text = card.reduces_to.partition(" at ")
    knobs = dict(pair.strip().split("=") for pair in text.split(","))
    for M in [M for M in subject.sizes if 2 <= M <= 3]:
        data = feed(feature_set(M, absent=0.1))
        own = fitted(subject.plain(data, knobs=knobs), data)
        base = Subject(method_class(name))
        fusion = own.method.fusion_name if own.method.fusion_name.partition(":")[0] in base.cls.card.fusions else ""
        other = fitted(base.plain(data, fusion=fusion), data)
        for run in (own, other):
            run.use_best()
        far = gap(answers(own.method, data), answers(other.method, data))
        demand(far <= EXACT, f"M = {M}: a probability differs from {name}'s by {far:.1e} at {text}")


def variants(cls: type[Method]) -> Iterator[tuple[Knob, Any]]:
    """Other valid values of every knob."""
    for k in cls.declared().values():
        if k.choices:
            yield from ((k, choice) for choice in k.choices if choice != k.default)
        elif isinstance(k.default, bool):
            yield k, not k.default
        elif isinstance(k.default, (int, float)):
            bound = next((value for value in (k.high, k.low) if value not in (None, k.default)), k.default + 1)
            yield k, type(k.default)(bound)


def knobs_act(subject: Subject) -> None:
    """Every value of every knob changes something."""
    M = min(3, max(subject.sizes))
    for k, value in variants(subject.cls):
        name, _, needed = k.when.partition("=")
        base = {name: needed} if name else {}
        data = feed(feature_set(M, flat=True) if k.name == "graph" else feature_set(M, absent=0.1))
        one, other = (fitted(subject.build(data, knobs=base | more), data).method for more in ({}, {k.name: value}))
        if one.mods != other.mods or one.state_dict().keys() != other.state_dict().keys():
            continue
        same = all(torch.equal(v, other.state_dict()[entry]) for entry, v in states(one))
        changed = not same or not torch.equal(answers(one, data), answers(other, data))
        demand(changed, f"method.{k.name}={value} changes nothing (Card.exercise can say under which settings it acts)")


def refuses(subject: Subject) -> None:
    """Unknown knobs, and fusions that the card does not name, are refused."""
    data = feed(feature_set(max(2, min(subject.sizes))))
    wrong: list[dict[str, Any]] = [{"knobs": {"nonsense": 1}}]
    wrong += [{"fusion": name} for name in FUSIONS if name not in subject.cls.card.fusions]
    for given in wrong:
        try:
            subject.build(data, **given)
        except (RecipeError, UsageError):
            continue
        demand(False, f"{given} is not refused")


def every_fusion(subject: Subject) -> None:
    """Trains with every fusion that its card names, seeds at once as alone."""
    data = feed(feature_set(min(3, max(subject.sizes))))
    for fusion in subject.cls.card.fusions[1:]:
        stacked, solo = subject.build(data, fusion=fusion), subject.build(data, (2,), fusion=fusion)
        far, name = apart(fitted(stacked, data).method, fitted(solo, data).method, 1)
        demand(far <= SOLO, f"fusion {fusion}: {name} differs by {far:.1e}")


class Check(NamedTuple):
    """A check by name."""

    name: str
    run: Callable[[Subject], None]

    @property
    def promise(self) -> str:
        """What holds when nothing is raised."""
        return (self.run.__doc__ or "").strip()


CHECKS = tuple(
    Check(run.__name__.replace("_", "-"), run)
    for run in (trains, special_case, stacked_equals_solo, same_bits, any_order, resumes, repeats, failure_stays_apart,
                own_sample_only, leaves_no_trace, missing_class, sealed, knobs_act, refuses, every_fusion, learns)
)  # fmt: skip
