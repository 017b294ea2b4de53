"""What the engine offers to methods with stages: phases, the inner split, peeks, frozen teachers."""

from __future__ import annotations

from collections import Counter
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from mmbal_cli.data.features import from_arrays
from mmbal_cli.engine.feed import SplitPeek
from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Card, Method, Out, Peek, Phase
from mmbal_cli.methods.heads import Heads
from mmbal_cli.nn.frozen import Frozen
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from tests.kit.features import CONFIG, build, feature_set, feed

CONFIGS = CONFIG.model_dump()


class Staged(Heads):
    """Unimodal heads first, then joint training beside a teacher, then the heads alone on the inner split."""

    card = Card("staged", "stages")
    seen: ClassVar[list[tuple[str, int, dict[str, Tensor]]]] = []

    def build(self) -> None:
        super().build()
        self.teacher = Frozen(self.enc[self.mods[0]])
        self.register_buffer("count", torch.zeros(self.S, dtype=self.dtype))

    def phases(self) -> list[Phase]:
        return [Phase("own", 3), Phase("joint", 2, keep_best=False), Phase("tune", 2, "inner")]

    def held_out(self) -> float:
        return 0.2

    def begin_phase(self, peek: Peek) -> None:
        if self.phase == "joint":
            self.teacher.take(self.enc[self.mods[0]])
        self.seen.append((self.phase, self.epoch, {k: v.clone() for k, v in self.state_dict().items()}))

    def loss(self, out: Out, batch: Batch) -> Tensor:
        self.count += 1
        if self.phase == "joint":
            return ce(out.fused, batch.y)
        return self.unimodal_loss(out, batch)

    def selects(self, parameter: str) -> str:
        return self.owner(parameter) if self.phase == "own" else "fused"


def staged(seeds: tuple[int, ...] = (1, 2, 3)) -> Fit:
    data = feed(feature_set(2, n=90))
    Staged.seen.clear()
    return Fit(Staged(data.shape, TrainConfig(**CONFIGS), seeds), data)


def test_each_phase_starts_from_the_best_of_the_one_before_with_a_fresh_optimizer() -> None:
    fit = staged()
    rows, best = [], {}
    for found in fit.run():
        rows += found
        best[fit.finished] = {k: v.clone() for k, v in fit.chosen.state.items()}
        moments = fit.method.opt.state()
        assert all(torch.isfinite(v).all() for v in moments.values())
        last = {k: v.clone() for k, v in fit.method.state_dict().items()}
        if fit.finished == 5:
            end_of_joint = last
    starts = {phase: state for phase, _, state in Staged.seen}
    assert [row["phase"] for row in rows[::3]] == ["own"] * 3 + ["joint"] * 2 + ["tune"] * 2
    assert all(torch.equal(starts["joint"][k], v) for k, v in best[3].items() if "teacher" not in k)
    assert all(torch.equal(starts["tune"][k], v) for k, v in end_of_joint.items())  # keep_best=False
    assert all(epoch == 0 for _, epoch, _ in Staged.seen)
    assert (fit.chosen.epoch["fused"] > 5).all()  # the last phase's best is the result


def test_units_of_a_phase_are_selected_by_their_own_score() -> None:
    fit = staged()
    rows: list[dict] = []
    for found in fit.run():
        rows += found
        if fit.finished == 3:
            chosen = {unit: epoch.clone() for unit, epoch in fit.chosen.epoch.items()}
    for unit, epochs in chosen.items():
        suffix = "" if unit == "fused" else f"/{unit}"
        for i, seed in enumerate((1, 2, 3)):
            own = [row for row in rows if row["seed"] == seed and row["epoch"] <= 3]
            top = max(own, key=lambda r: (r[f"val/accuracy{suffix}"], -r[f"val/nll{suffix}"], -r["epoch"]))
            assert epochs[i] == top["epoch"]


def test_a_resume_may_fall_on_any_epoch_of_any_phase() -> None:
    whole = staged()
    list(whole.run())
    for stop in range(1, 8):
        part = staged()
        run = part.run()
        for _ in range(stop):
            next(run)
        tensors, meta = part.state()
        rest = staged()
        rest.load({k: v.clone() for k, v in tensors.items()}, meta)
        list(rest.run())
        assert all(torch.equal(v, rest.method.state_dict()[k]) for k, v in whole.method.state_dict().items()), stop
        assert all(torch.equal(v, rest.chosen.state[k]) for k, v in whole.chosen.state.items()), stop


def test_what_has_no_gradient_in_a_phase_does_not_move_and_a_teacher_never_does() -> None:
    fit = staged()
    start = {k: v.clone() for k, v in fit.method.state_dict().items()}
    for _ in fit.run():
        now = fit.method.state_dict()
        if fit.finished <= 3:
            assert torch.equal(now["fusion.head.weight"], start["fusion.head.weight"])
        if fit.finished == 4:
            taught = {k: v.clone() for k, v in now.items() if k.startswith("teacher")}
            assert any(not torch.equal(v, start[k]) for k, v in taught.items())
        if fit.finished > 4:
            assert all(torch.equal(now[k], v) for k, v in taught.items())
    assert not fit.method.teacher.module.training
    assert all(not p.requires_grad for p in fit.method.teacher.parameters())
    assert len(fit.method.opt.params) == sum(p.requires_grad for p in fit.method.parameters())


def test_the_inner_split_is_stratified_disjoint_and_shared_by_all_seeds() -> None:
    fit = staged()
    rows, y = fit.feed.rows, fit.feed.y
    original = set(feed(feature_set(2, n=90)).rows["train"].tolist())
    train, inner = set(rows["train"].tolist()), set(rows["inner"].tolist())
    assert not train & inner
    assert train | inner == original
    counts, whole = Counter(y[rows["inner"]].tolist()), Counter(y[sorted(original)].tolist())
    assert all(counts[c] == round(0.2 * n) for c, n in whole.items())
    seen = set()
    for batch in fit.feed.epoch(fit.method.rng, 16):
        assert batch.rows is not None
        seen |= set(batch.rows.flatten().tolist())
    assert seen == train
    assert set(fit.feed.rows["val"].tolist()).isdisjoint(inner)


def test_whole_groups_go_to_the_inner_split_and_rare_classes_stay_in_training() -> None:
    features = feature_set(2, n=60)
    features.groups = [f"speaker-{row % 12}" for row in range(len(features.ids))]
    parts = {name: {features.groups[i] for i in rows.tolist()} for name, rows in features.inner(0.2).items()}
    assert not parts["train"] & parts["inner"]
    assert parts["inner"]
    lone = feature_set(2, n=61, classes=5)
    rows = lone.rows["train"]
    lone.y[rows] = torch.where(lone.y[rows] == 4, 3, lone.y[rows])
    lone.y[rows[0]] = 4  # one sample of this class
    parts_y = {name: set(lone.y[found].tolist()) for name, found in lone.inner(0.1).items()}
    assert parts_y["train"] == {0, 1, 2, 3, 4}
    assert parts_y["inner"] == {0, 1, 2, 3}


def test_peek_shows_logits_labels_and_random_samples_and_never_the_test_split() -> None:
    features = feature_set(2, absent=0.3)
    data = feed(features).carved(0.2)
    method = build("concat", data, (1, 2)).eval()
    peek = SplitPeek(method, data)
    view = peek.outputs("inner")
    batch = next(peek.batches("inner"))
    out = method(batch)
    assert torch.equal(view.fused, out.fused)
    assert not view.fused.requires_grad
    assert torch.equal(view.y, batch.y)
    for m in method.mods:
        assert torch.equal(view.z[m], out.z[m])
        present = batch.present(m)
        assert present is None or torch.equal(view.present[m], present)
    drawn = peek.sample("train", 9)
    assert drawn.y.shape == (2, 9)
    assert all(len(set(row.tolist())) == 9 for row in drawn.idx)
    assert not torch.equal(drawn.idx[0], drawn.idx[1])
    assert torch.equal(drawn.y, data.y[data.rows["train"]][drawn.idx])
    assert peek.sample("inner", 10_000).y.shape[1] == len(data.rows["inner"])
    losses, accuracy = peek.losses("val"), peek.accuracy("val")
    assert set(losses) == set(accuracy) == {"fused", *method.mods}
    with pytest.raises(UsageError, match="sealed"):
        peek.outputs("test")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="inner split"):
        SplitPeek(method, feed(features)).outputs("inner")


def test_initial_is_the_state_at_construction_and_owner_names_the_modality() -> None:
    fit = staged()
    start = {k: v.clone() for k, v in fit.method.state_dict().items()}
    list(fit.run())
    again = fit.method.initial()
    assert all(torch.equal(v, again[k]) for k, v in start.items())
    owners = {name: fit.method.owner(name) for name in start}
    assert owners["enc.audio_.mlp.layers.0.weight"] == owners["heads.audio_.bias"] == "audio"
    assert owners["fusion.head.weight"] == "fused"


class Looking(Method):
    """Notes what `see` is given."""

    card = Card("looking", "reference")
    nodes: Tensor | None = None

    def see(self, x: dict[str, Tensor], mask: dict[str, Tensor | None]) -> None:
        self.nodes = x["audio"]


def test_a_transductive_method_sees_all_features_and_its_batches_name_their_rows() -> None:
    features = feature_set(2)
    data = from_arrays("tiny", "0" * 64, features.classes, _arrays(features))
    method = Looking(feed(data).shape, TrainConfig(**CONFIGS), (1, 2))
    fit = Fit(method, feed(data))
    assert method.nodes is not None
    assert len(method.nodes) == len(data.ids)
    for batch in (next(fit.feed.epoch(method.rng, 16)), next(fit.feed.split("val", 2))):
        assert batch.rows is not None
        assert torch.equal(method.nodes[batch.rows], batch.x["audio"])


def _arrays(features) -> dict:  # type: ignore[no-untyped-def]
    splits = [next(s for s, rows in features.rows.items() if i in rows) for i in range(len(features.ids))]
    return {"ids": features.ids, "splits": splits, "labels": features.y.numpy(), "groups": [""] * len(splits),
            "features": {m: x.numpy() for m, x in features.x.items()},
            "mask": {m: torch.ones(x.shape[:-1]).numpy() for m, x in features.x.items()}}  # fmt: skip
