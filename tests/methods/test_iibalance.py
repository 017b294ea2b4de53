"""IIBalance: the numeric checks of the specification, its edge cases, and an independent loop over samples."""

from __future__ import annotations

import math
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from mmbal_cli.engine.feed import Feed, SplitPeek, predictions
from mmbal_cli.engine.fit import Fit
from mmbal_cli.methods.base import Method
from mmbal_cli.ops import calibration, prototypes
from mmbal_cli.ops.gradients import gradient_norm
from mmbal_cli.ops.losses import ce
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import CONFIG, build, feature_set, feed, fit, steps
from tests.methods import reference
from tests.methods.slow_iibalance import Slow, parameters

D64 = torch.float64
SHARES = torch.tensor([[0.62, 0.6, 0.3], [0.2, 0.5, 0.48], [0.4, 0.4, 0.41]], dtype=D64)  # anchors 0, 1, 2 (M = 3)
iib = partial(build, "iibalance", gate_epochs=2)


def tensor(*values: Any) -> Tensor:
    return torch.tensor([values], dtype=D64)


def everyone(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


def changed(**values: Any) -> TrainConfig:
    return TrainConfig(**(CONFIG.model_dump() | values))


def rigged(method: Method, shares: Tensor = SHARES) -> Method:
    """In the training phase, with budgets that make alignment fire at once."""
    method.budgets.share.copy_(shares[: method.S, : len(method.mods)])
    method.budgets.settle(0.01, "ratio", 0.5)
    return method


def aimed(method: Method, phase: str) -> Method:
    method.phase = phase
    method.opt = method.optimizer()
    return method


# ------------------------------------------------------------------------------------ budgets


def test_known_probabilities_give_known_budgets() -> None:
    nll = tensor(-math.log(0.9), -math.log(0.6))
    label = calibration.label_entropy(torch.tensor([[0, 1, 0, 1]] * 2), 2, everyone(2, 4))
    assert nll[0].tolist() == pytest.approx([0.10536, 0.51083], abs=1e-5)
    budgets = calibration.Budgets(1, 2, D64)
    budgets.share.copy_(calibration.information_share(nll[0], label))
    budgets.settle(0.01, "ratio", 0.5)
    assert budgets.beta[0].tolist() == pytest.approx([0.84800, 0.26303], abs=1e-5)
    assert budgets.pi[0].tolist() == pytest.approx([0.76325, 0.23675], abs=1e-5)
    assert budgets.delta[0].tolist() == pytest.approx([0, 0.58496], abs=1e-5)
    assert budgets.anchor.tolist() == [0]
    budgets.settle(0.01, "softmax", 0.5)
    odds = math.exp((0.84800 - 0.26303) / 0.5)
    assert budgets.pi[0].tolist() == pytest.approx([odds / (1 + odds), 1 / (1 + odds)], abs=1e-5)


def test_accuracy_budget_is_what_lies_above_chance() -> None:
    assert calibration.accuracy_share(tensor(1.0, 0.55, 0.25, 0.1), 4)[0].tolist() == pytest.approx([1, 0.4, 0, 0])
    assert calibration.information_share(tensor(0.0, 0.5, 1.0, 1.5), tensor(1.0, 1.0, 1.0, 1.0))[0].tolist() == [
        1, 0.5, 0, 0,
    ]  # fmt: skip


def test_useless_modalities_get_the_floor_and_equal_weights() -> None:
    budgets = calibration.Budgets(2, 3, D64)
    y = torch.tensor([[0, 1, 0, 1, 1, 0]]).expand(2, 6)
    wrong = torch.nn.functional.one_hot(1 - y, 2).to(D64)[:, None].expand(2, 3, 6, 2)
    _, nll, _ = budgets.measure(wrong, y, everyone(2, 3, 6), "bits")
    assert (nll >= math.log(2)).all()
    budgets.settle(0.01, "ratio", 0.5)
    assert (budgets.beta == 0.01).all()
    assert torch.allclose(budgets.pi, torch.full((2, 3), 1 / 3, dtype=D64))
    assert budgets.anchor.tolist() == [0, 0]
    assert (budgets.delta == 0).all()


def test_label_entropy_is_of_the_classes_that_occur_among_those_present() -> None:
    y = torch.tensor([[0, 0, 2, 2, 5, 5, 1, 1]]).expand(4, 8)
    present = everyone(4, 8).clone()
    present[1, 6:] = False
    present[2, 1:] = False
    present[3] = False
    found = calibration.label_entropy(y, 6, present)
    assert found.tolist() == pytest.approx([math.log(4), math.log(3), 0, 0])
    assert calibration.information_share(torch.zeros(4, dtype=D64), found).tolist() == pytest.approx([1, 1, 0, 0])


LOGITS = {
    "overconfident": lambda g, y: 30 * g.normal(size=(40, 5)) + 20 * np.eye(5)[y],
    "shy": lambda g, y: 0.05 * (g.normal(size=(40, 5)) + 2 * np.eye(5)[y]),
    "usual": lambda g, y: g.normal(size=(40, 5)) + np.eye(5)[y],
    "wrong": lambda g, y: g.normal(size=(40, 5)) - 3 * np.eye(5)[y],
    "separable": lambda g, y: 4 * np.eye(5)[y] + 0.1 * g.normal(size=(40, 5)),
    "constant": lambda g, y: np.full((40, 5), 3.0),
    "huge": lambda g, y: 1e6 * np.eye(5)[g.integers(0, 5, 40)],
}


@pytest.mark.parametrize("kind", list(LOGITS))
@pytest.mark.parametrize("holes", [False, True])
def test_temperature_is_as_good_as_a_scalar_optimizer_finds(kind: str, holes: bool) -> None:
    g = np.random.default_rng(3)
    y = g.integers(0, 5, (4, 40))
    z = np.stack([LOGITS[kind](g, row) for row in y])
    present = g.random((4, 40)) > (0.4 if holes else -1)
    T, nll = calibration.fit_temperature(torch.tensor(z), torch.tensor(y), torch.tensor(present) if holes else None)

    def cost(log_t: float, r: int) -> float:
        scaled = z[r][present[r]] / math.exp(log_t)
        top = scaled.max(1, keepdims=True)
        logp = scaled - top - np.log(np.exp(scaled - top).sum(1, keepdims=True))
        return -logp[np.arange(len(logp)), y[r][present[r]]].mean()

    low, high = math.log(calibration.COLDEST), math.log(calibration.HOTTEST)
    for r in range(4):
        best = min(
            minimize_scalar(cost, (a, b), (a, b), method="bounded", options={"xatol": 1e-10}, args=(r,)).fun
            for a, b in ((low, high), (low, 0), (0, high), (-2, 2))
        )
        assert nll[r].item() <= best + 1e-6
        assert nll[r].item() == pytest.approx(cost(math.log(T[r].item()), r), abs=1e-9)
    assert torch.isfinite(T).all()


def test_the_best_epoch_counts_for_each_seed_and_modality() -> None:
    budgets, y = calibration.Budgets(2, 2, D64), torch.arange(3).expand(2, 3)
    g = torch.Generator().manual_seed(0)
    seen, shares = [], []
    for _ in range(4):
        z = torch.randn(2, 2, 3, 3, generator=g, dtype=D64)
        _, nll, better = budgets.measure(z, y, everyone(2, 2, 3), "bits")
        assert torch.equal(better, nll < torch.stack([*seen, torch.full_like(nll, torch.inf)]).amin(0))
        seen.append(nll)
        shares.append((1 - nll / math.log(3)).clamp_min(0))
    assert torch.equal(budgets.nll, torch.stack(seen).amin(0))
    assert torch.allclose(budgets.share, torch.stack(shares).amax(0))


def test_a_modality_that_nobody_held_out_has_is_no_anchor() -> None:
    budgets, y = calibration.Budgets(1, 2, D64), torch.arange(3).expand(1, 3)
    present = everyone(1, 2, 3).clone()
    present[:, 0] = False
    for estimator in ("bits", "acc"):
        budgets.measure(torch.eye(3, dtype=D64).expand(1, 2, 3, 3), y, present, estimator)
        budgets.settle(0.01, "ratio", 0.5)
        assert budgets.beta[0, 0] == 0.01
        assert budgets.anchor.tolist() == [1]


# --------------------------------------------------------------------------- prototypes, pull


def plane(*points: tuple[float, float]) -> Tensor:
    return torch.tensor([[list(points)]], dtype=D64)  # [1,1,B,2]


@pytest.mark.parametrize(("tau", "expected"), [(1.0, 0.31326), (0.2, 0.0067153)])
def test_prototype_loss_of_a_known_feature(tau: float, expected: float) -> None:
    P, y = plane((1, 0), (0, 1)), torch.tensor([[0]])
    logits = prototypes.similarity(plane((3, 0)), P, tau)
    loss, q = prototypes.prototype_loss(logits, y, everyone(1, 1, 2), everyone(1, 1, 1))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert q.item() == pytest.approx(math.exp(-expected), rel=1e-5)


def test_classes_that_are_not_known_are_no_alternative_and_their_samples_are_skipped() -> None:
    P, y = plane((1, 0), (0, 1), (-1, 0)), torch.tensor([[0, 2, 0]])
    known = torch.tensor([[[True, True, False]]])
    present = torch.tensor([[[True, True, False]]])
    logits = prototypes.similarity(plane((1, 0), (1, 0), (0, 1)), P, 1.0)
    loss, _ = prototypes.prototype_loss(logits, y, known, present)
    assert loss.item() == pytest.approx(0.31326, abs=1e-5)
    nothing, q = prototypes.prototype_loss(logits, y, torch.zeros_like(known), present)
    assert (nothing.item(), q.item()) == (0, 0)


def test_moving_prototypes_of_known_features() -> None:
    P, known = plane((1, 0), (0, 0), (0, 1)), torch.tensor([[[True, False, True]]])
    h, y = plane((0, 7), (3, 3), (1, 0), (-5, 0)), torch.tensor([[0, 1, 1, 2]])
    present = torch.tensor([[[True, True, True, False]]])
    new, now = prototypes.moved(P, known, h, y, present, 0.5)
    first = torch.tensor([1 + math.sqrt(0.5), math.sqrt(0.5)])
    assert new[0, 0, 0].tolist() == pytest.approx([0.70711, 0.70711], abs=1e-5)
    assert new[0, 0, 1].tolist() == pytest.approx((first / first.norm()).tolist(), abs=1e-6)
    assert new[0, 0, 2].tolist() == [0, 1]
    assert now.all()


def test_features_without_direction_move_no_prototype_and_stay_finite() -> None:
    P, none = torch.zeros(1, 1, 2, 2, dtype=D64), torch.zeros(1, 1, 2, dtype=torch.bool)
    y = torch.tensor([[0, 1]])
    new, now = prototypes.moved(P, none, plane((0, 0), (1, 0)), y, everyone(1, 1, 2), 0.9)
    assert now.tolist() == [[[False, True]]]
    assert new[0, 0].tolist() == [[0, 0], [1, 0]]
    opposite, _ = prototypes.moved(plane((1, 0), (1, 0)), everyone(1, 1, 2), plane((-1, 0), (0, 1)), y,
                                   everyone(1, 1, 2), 0.5)  # fmt: skip
    assert opposite[0, 0, 0].tolist() == [1, 0]
    h = plane((0, 0), (1e-30, 0)).requires_grad_()
    logits = prototypes.similarity(h, plane((1, 0), (0, 1)), 0.2)
    assert logits.softmax(-1).flatten().tolist() == pytest.approx([0.5] * 4)
    prototypes.prototype_loss(logits, y, everyone(1, 1, 2), everyone(1, 1, 2))[0].sum().backward()
    assert torch.isfinite(h.grad).all()


def from_q(anchor: list[list[float]], other: list[list[float]]) -> Tensor:
    return torch.tensor([[anchor, other]], dtype=D64).log()  # [1,2,B,C]


def test_a_sample_triggers_when_the_gap_exceeds_the_difference_of_budgets() -> None:
    logits = from_q([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], [[0.7, 0.3], [0.5, 0.5], [0.05, 0.95]])
    args = (logits, torch.zeros(1, 3, dtype=torch.long), everyone(1, 2, 2), everyone(1, 2, 3), torch.tensor([0]))
    delta = tensor(0.0, 0.3)
    for chosen in ([0], [1], [2]):
        pick = everyone(1, 2, 3) & torch.isin(torch.arange(3), torch.tensor(chosen))
        _, rate = prototypes.align(*args[:3], pick, args[4], delta)
        assert rate.tolist() == [[0, 0 if chosen == [0] else 1]]
    _, rate = prototypes.align(*args, delta)
    assert rate[0].tolist() == pytest.approx([0, 2 / 3])
    hinge, _ = prototypes.align(*args, delta, "hinge")
    assert hinge[0].tolist() == pytest.approx([0, (0.1 + 0.05) / 3])


def test_alignment_of_known_distributions_divides_by_the_whole_batch() -> None:
    logits = from_q([[0.9, 0.1]] * 3, [[0.5, 0.5], [0.5, 0.5], [0.9, 0.1]]).requires_grad_()
    args = (torch.zeros(1, 3, dtype=torch.long), everyone(1, 2, 2), everyone(1, 2, 3), torch.tensor([0]))
    loss, _ = prototypes.align(logits, *args, tensor(0.0, 0.3))
    assert loss[0].tolist() == pytest.approx([0, 0.24538], abs=1e-5)
    assert loss[0, 1].item() * 3 / 2 == pytest.approx(0.36806, abs=1e-5)
    loss.sum().backward()
    assert (logits.grad[:, 0] == 0).all()
    assert (logits.grad[0, 1, :2] != 0).all()
    assert (logits.grad[0, 1, 2] == 0).all()


@pytest.mark.parametrize("kind", ["kl", "hinge"])
def test_nobody_triggered_means_no_loss_and_no_gradient(kind: str) -> None:
    logits = from_q([[0.6, 0.4]] * 2, [[0.5, 0.5]] * 2).requires_grad_()
    args = (torch.zeros(1, 2, dtype=torch.long), everyone(1, 2, 2), everyone(1, 2, 2), torch.tensor([0]))
    for flag in (None, torch.zeros(1, 2, dtype=torch.bool)):
        loss, rate = prototypes.align(logits, *args, tensor(0.0, 0.3), kind, flag)
        assert (loss == 0).all()
        assert (rate == 0).all()
        assert (torch.autograd.grad(loss.sum(), logits)[0] == 0).all()


@pytest.mark.parametrize("fewer", [0, 1])
@pytest.mark.parametrize("flag", [None, everyone(1, 2)])
def test_alignment_is_over_the_classes_that_both_know(fewer: int, flag: Tensor | None) -> None:
    logits = from_q([[0.6, 0.2, 0.2]] * 2, [[0.2, 0.2, 0.6]] * 2).requires_grad_()
    known = everyone(1, 2, 3).clone()
    known[0, fewer, 1] = False
    y, anchor = torch.tensor([[0, 1]]), torch.tensor([0])
    loss, rate = prototypes.align(logits, y, known, everyone(1, 2, 2), anchor, tensor(0.0, 0.1), "kl", flag)
    assert rate.tolist() == [[0, 0.5]]
    expected = 0.75 * math.log(0.75 / 0.25) + 0.25 * math.log(0.25 / 0.75)
    assert loss[0].tolist() == pytest.approx([0, expected / 2])
    grad = torch.autograd.grad(loss.sum(), logits)[0]
    assert torch.isfinite(grad).all()
    assert (grad[:, 0] == 0).all()


def test_a_batch_without_samples_of_a_modality_changes_nothing_of_it() -> None:
    memory = prototypes.Prototypes(1, 2, 2, 2, D64)
    h, y = torch.cat([plane((1, 0), (0, 1)), plane((0, 1), (1, 0))], 1), torch.tensor([[0, 1]])
    memory.follow(h, y, everyone(1, 2, 2), tensor(0.5, 0.7), 0.9)
    before = {k: v.clone() for k, v in memory.state_dict().items()}
    memory.follow(h.flip(-1), y, torch.tensor([[[False, False], [True, True]]]), tensor(0.0, 0.2), 0.9)
    assert torch.equal(memory.P[:, 0], before["P"][:, 0])
    assert not torch.equal(memory.P[:, 1], before["P"][:, 1])
    assert memory.mean[0].tolist() == pytest.approx([0.5, 0.9 * 0.7 + 0.1 * 0.2])


def test_flags_compare_ratios_of_means_with_ratios_of_budgets() -> None:
    memory = prototypes.Prototypes(4, 2, 3, 2, D64)
    memory.mean.copy_(torch.tensor([[0.9, 0.3], [0.9, 0.6], [0.2, 0.9], [0.0, 0.0]]))
    beta = torch.tensor([[0.8, 0.5], [0.8, 0.5], [0.3, 0.7], [0.8, 0.5]], dtype=D64)
    memory.compare(beta, beta.argmax(1))
    assert memory.flag.tolist() == [[False, True], [False, False], [True, False], [False, False]]


# ------------------------------------------------------------------------------------ decisions


def test_gate_of_known_uncertainty() -> None:
    pi, here = tensor(0.75, 0.25), everyone(1, 1, 2)

    def w(gamma: float, *Hn: float) -> list[float]:
        return calibration.evidence_weights(pi, -gamma * tensor(Hn), here).flatten().tolist()

    assert w(math.log(3), 1, 0) == pytest.approx([0.5, 0.5])
    assert w(2, 0.5, 0.2) == pytest.approx([0.62213, 0.37787], abs=1e-5)
    assert w(5, 0.4, 0.4) == pytest.approx([0.75, 0.25])
    assert w(0, 1, 0) == pytest.approx([0.75, 0.25])
    lone = calibration.evidence_weights(tensor(1.0, 0.0), tensor([0.0, -100.0]), torch.tensor([[[False, True]]]))
    assert lone.tolist() == [[[0, 1]]]
    faint = calibration.evidence_weights(tensor(0.999999, 0.000001), tensor([0.0, 0.0]), here)
    assert faint.flatten().tolist() == pytest.approx([0.999999, 0.000001])


def test_an_absent_modality_weighs_nothing_and_is_undecided() -> None:
    z = torch.tensor([[[[5.0, 0, 0], [0, 0, 0]]] * 3], dtype=D64)
    present = torch.tensor([[[True, True], [False, True], [False, False]]])
    unsure = calibration.doubt(z, present)
    assert unsure[0, 0, 1].tolist() == pytest.approx([1, 1 / 3])
    assert unsure[0, 1, 0].tolist() == pytest.approx([1, 1 / 3])
    assert unsure[0, 0, 0, 1].item() == pytest.approx(math.exp(5) / (math.exp(5) + 2))
    w = calibration.evidence_weights(tensor(0.9, 0.1), -unsure[..., 0], present)
    assert w[0, 1].tolist() == [0, 1]
    assert torch.isfinite(w).all()


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_a_fresh_learned_gate_is_the_bayes_gate(absent: float) -> None:
    data = feed(feature_set(3, absent=absent))
    learned, bayes, prior = (rigged(iib(data, gate=kind)).eval() for kind in ("learned", "bayes", "prior"))
    batch = next(data.split("val", 3))
    out = learned(batch)
    assert torch.equal(learned.predict(out), bayes.predict(bayes(batch)))
    here = torch.stack([torch.ones_like(batch.y) if p is None else p for p in map(batch.present, learned.mods)], -1)
    share = learned.budgets.pi[:, None] * here
    known = here.any(-1)
    w = share / share.sum(-1, keepdim=True)
    assert torch.allclose(prior(batch).extra["w"][known], w[known])
    assert torch.allclose(out.extra["w"].sum(-1), torch.ones_like(out.fused[..., 0]))
    logits = learned.decide(out)
    logp = sum(out.extra["w"][..., i, None] * out.z[m].log_softmax(-1) for i, m in enumerate(learned.mods))
    assert torch.equal(logits.argmax(-1), logp.argmax(-1))


def test_without_a_gate_the_fused_head_predicts() -> None:
    data = feed(feature_set(2))
    for target in ("logits", "features"):
        method = iib(data, gate="none", gate_target=target)
        out = method(next(data.split("val", 3)))
        assert torch.equal(method.predict(out), method.fusion.logits(out.h).softmax(-1))
        assert [phase.name for phase in method.phases()] == ["budget", "train"]


def test_weighted_features_with_equal_weights_are_the_plain_fusion() -> None:
    data = feed(feature_set(3))
    batch = next(data.split("val", 3))
    weighted = iib(data, gate="prior", gate_target="features")
    out = weighted(batch)
    assert torch.allclose(out.fused, weighted.fusion.logits(out.h), atol=1e-12)
    out = rigged(weighted)(batch)
    scaled = {m: 3 * weighted.budgets.pi[:, i, None, None] * out.h[m] for i, m in enumerate(weighted.mods)}
    assert torch.allclose(weighted.predict(out), weighted.fusion.logits(scaled).softmax(-1), atol=1e-12)
    assert all(torch.equal(out.z[m], weighted.heads[m](out.h[m])) for m in weighted.mods)


# ------------------------------------------------------------------------------------ the run


class Spy(Feed):
    """Counts which rows each phase is trained on."""

    def __init__(self, other: Feed) -> None:
        self.__dict__ = other.__dict__ | {"used": {}}

    def epoch(self, rng: SeedStreams, size: int, split: str = "train") -> Any:
        for batch in super().epoch(rng, size, split):
            self.used.setdefault(split, set()).update(batch.rows.flatten().tolist())
            yield batch


@pytest.mark.parametrize("holdout", [0.2, 0.0])
def test_held_out_samples_train_the_gate_alone(holdout: float) -> None:
    data = Spy(feed(feature_set(2)))
    method = iib(data, holdout=holdout, budget_epochs=2)
    fit(method, data)
    split = "inner" if holdout else "val"
    assert set(data.used) == {"train", split}
    assert not data.used["train"] & data.used[split]
    assert len(data.used["train"]) == (48 if holdout else 60)
    expected = [("budget", 2, "train"), ("train", 4, "train"), ("gate", 2, split)]
    assert [(p.name, p.epochs, p.data) for p in method.phases()] == expected


def test_training_starts_anew_with_the_budgets_of_the_best_epochs() -> None:
    data = feed(feature_set(3, easy=0.6, absent=0.2))
    method = iib(data, holdout=0.2)
    carved = data.carved(method.held_out())
    peek, fresh = SplitPeek(method, carved), method.initial()
    aimed(method, "budget")
    best = torch.full((3, 3), torch.inf, dtype=D64)
    for _ in range(3):
        steps(method, carved, 3)
        method.eval()
        method.end_epoch(peek)
        for (i, m), s in product(enumerate(method.mods), range(3)):
            best[s, i] = min(best[s, i], slow_nll(method, carved, m, s))
    fused = {k: v for k, v in fresh.items() if k.startswith(("fusion", "judge"))}
    assert all(torch.equal(method.state_dict()[k], v) for k, v in fused.items())
    assert torch.allclose(method.budgets.nll, best, atol=1e-6)
    aimed(method, "train").begin_phase(peek)
    assert all(torch.equal(v, fresh[k]) for k, v in method.state_dict().items() if not k.startswith("budgets."))
    for s in range(3):
        beta = []
        for i, m in enumerate(method.mods):
            rows = [int(r) for r in carved.rows["inner"] if carved.mask[m] is None or carved.mask[m][r].any()]
            counts = np.bincount(carved.y[rows]) / len(rows)
            H = -sum(c * math.log(c) for c in counts if c)
            beta.append(max(0.01, 1 - float(best[s, i]) / H))
        assert method.budgets.beta[s].tolist() == pytest.approx(beta, abs=1e-5)
        assert method.budgets.pi[s].tolist() == pytest.approx([b / sum(beta) for b in beta], abs=1e-5)
        assert method.budgets.anchor[s] == beta.index(max(beta))


def slow_nll(method: Method, data: Feed, m: str, s: int) -> float:
    """Lowest NLL over temperatures of one modality's logits on the inner split."""
    p = parameters(method, s)
    z, y = [], []
    for r in data.rows["inner"].tolist():
        mask = data.mask[m]
        if mask is None or mask[r].any():
            h = reference.adapter(p, m, data.x[m][r])
            z.append((h @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0]).detach())
            y.append(int(data.y[r]))

    def cost(log_t: float) -> float:
        return float(sum(reference.cross_entropy(v / math.exp(log_t), c) for v, c in zip(z, y, strict=True))) / len(z)

    return min(minimize_scalar(cost, bounds=b, method="bounded").fun for b in ((-6.9, 0), (0, 6.9)))


def test_budgets_of_a_modality_do_not_depend_on_its_company() -> None:
    found = []
    for M in (2, 3):
        data = feed(feature_set(M, easy=1.0))
        method = aimed(iib(data, config=changed(clip=0.05)), "budget")
        steps(method, data, 4)
        for m in method.mods:
            norm = gradient_norm([*method.enc[m].parameters(), *method.heads[m].parameters()])
            assert norm.tolist() == pytest.approx([0.05] * 3, rel=1e-3)
        method.end_epoch(SplitPeek(method, data.carved(0.1)))
        found.append(method.budgets.nll[:, [method.mods.index(m) for m in ("audio", "video")]])
    assert torch.allclose(*found, rtol=0, atol=1e-12)


def test_reuse_starts_from_the_networks_of_the_lowest_nll() -> None:
    data = feed(feature_set(2))
    method = iib(data, reuse=True)
    carved = data.carved(0.1)
    peek = SplitPeek(method, carved)
    aimed(method, "budget")
    history, nlls = [], []
    for _ in range(4):
        steps(method, carved, 4)
        method.end_epoch(peek)
        history.append({k: v.clone() for k, v in method.state_dict().items()})
        nlls.append(torch.stack([v for k, v in method.collect().items() if "/nll/" in k], 1))
    best = torch.stack(nlls).argmin(0)  # [S,M]
    assert len(best.unique()) > 1
    aimed(method, "train").begin_phase(peek)
    for name, value in method.named_parameters():
        if name.startswith(("enc", "heads")):
            i = method.mods.index(method.owner(name))
            assert all(torch.equal(value[s], history[best[s, i]][name][s]) for s in range(3)), name
    assert (method.prototypes.P == 0).all()


def test_only_the_gate_learns_in_its_phase_and_without_dropout() -> None:
    data = feed(feature_set(2))
    method = aimed(rigged(iib(data, config=changed(dropout=0.5, weight_decay=0.1))), "gate")
    before = {k: v.clone() for k, v in method.state_dict().items()}
    method.train()
    assert not method.training
    steps(method, data, 3, "val")
    moved = {k for k, v in method.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"judge.0.weight", "judge.0.bias", "judge.2.weight", "judge.2.bias"}
    assert all(p.grad is None for k, p in method.named_parameters() if not k.startswith("judge"))
    assert method.opt.lr == 1e-3
    aimed(method, "train").train()
    assert method.training


def test_the_ramp_is_linear_between_warm_up_and_full_weight() -> None:
    method = iib(feed(feature_set(2)), lam_a=2.0, warmup=3, ramp=4)
    found = []
    for method.epoch in range(9):
        found.append(method.strength)
    assert found == [0, 0, 0, 0, 0.5, 1, 1.5, 2, 2]
    assert iib(feed(feature_set(2)), align="off", warmup=-1).strength == 0


@pytest.mark.parametrize("align", ["kl", "hinge"])
def test_the_anchor_gets_no_gradient_from_the_alignment(align: str) -> None:
    data = feed(feature_set(3))
    method = rigged(iib(data, warmup=-1, ramp=1, align=align, lam_p=0.0, beta=0.0))
    method.budgets.delta.zero_()
    plain = iib(data, align="off", lam_p=0.0, beta=0.0)
    steps(method, data, 2)
    plain.load_state_dict(method.state_dict())
    batch = next(data.epoch(method.rng, 16))
    assert all(not v.requires_grad for v in method.prototypes.buffers())
    grads = []
    for each in (method, plain):
        each.zero_grad()
        each.loss(each(batch), batch).sum().backward()
        grads.append({k: p.grad for k, p in each.named_parameters() if k.startswith("enc")})
    for s in range(3):
        anchor = method.mods[method.budgets.anchor[s]]
        for name, g in grads[0].items():
            same = torch.equal(g[s], grads[1][name][s])
            assert same == (method.owner(name) == anchor) or not name.endswith("weight"), name


def test_without_its_losses_and_gate_it_is_trained_like_heads() -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("heads", data), iib(data, lam_p=0.0, align="off", gate="none")
    steps(plain, data, 6)
    steps(method, data, 6)
    assert all(torch.equal(v, method.state_dict()[k]) for k, v in plain.state_dict().items())
    batch = next(data.split("val", 3))
    assert torch.equal(plain.predict(plain(batch)), method.predict(method(batch)))


def test_one_modality_is_trained_with_its_losses_and_answers_by_its_head() -> None:
    data = feed(feature_set(1))
    method = iib(data, warmup=-1)
    assert [(p.name, p.data) for p in method.phases()] == [("train", "train")]
    assert method.held_out() == 0
    steps(method, data, 2)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    logits = prototypes.similarity(torch.stack([out.h["audio"]], 1), method.prototypes.P, 0.2)
    own, _ = prototypes.prototype_loss(logits, batch.y, method.prototypes.known, everyone(3, 1, 16))
    expected = ce(out.fused, batch.y) + ce(out.z["audio"], batch.y) + 0.5 * own[:, 0]
    assert torch.allclose(method.loss(out, batch), expected)
    assert (own > 0).all()
    assert torch.allclose(method.predict(out), out.z["audio"].softmax(-1))
    assert fit(iib(data), data).died.tolist() == [-1, -1, -1]


def test_samples_without_any_modality_stay_finite() -> None:
    features = feature_set(2)
    for m in features.mask:
        mask = torch.ones_like(features.x[m][..., 0], dtype=torch.bool)
        mask[::4] = False
        features.mask[m] = mask
    data = feed(features)
    method = iib(data, warmup=-1, ramp=1)
    assert fit(method, data).died.tolist() == [-1, -1, -1]
    assert torch.isfinite(predictions(method.eval(), data, "val")["probs"]).all()


def test_a_class_that_the_held_out_samples_lack_counts_nowhere() -> None:
    features = feature_set(2, easy=2.0)
    val = features.rows["val"]
    features.y[val] = features.y[val] % 3
    data = feed(features)
    method = iib(data, holdout=0.0)
    view = SplitPeek(method, data).outputs("val")
    z = torch.stack([view.z[m] for m in method.mods], 1)
    assert len(view.y.unique()) == 3
    _, nll, _ = method.budgets.measure(z, view.y, torch.stack(list(view.present.values()), 1), "bits")
    counts = torch.bincount(view.y[0]).to(D64) / view.y.shape[1]
    H = -(counts * counts.log()).sum()
    assert torch.allclose(method.budgets.share, (1 - nll / H).clamp_min(0), atol=1e-12)
    assert fit(iib(data, holdout=0.0), data).died.tolist() == [-1, -1, -1]


def test_numbers_are_recorded_in_their_phases() -> None:
    data = feed(feature_set(2))
    method = iib(data, warmup=-1)
    rows = [row for rows in Fit(method, data).run() for row in rows]
    records: dict[str, set[str]] = {}
    for row in rows:
        records.setdefault(row["phase"], set()).update(k for k in row if k.startswith(("coef/", "grad/")))

    def names(*found: str) -> set[str]:
        return {f"{name}/{m}" for name in found for m in method.mods}

    assert records["budget"] == names("coef/nll", "coef/temperature", "grad")
    assert records["train"] == names("coef/beta", "coef/pi", "coef/gate", "coef/trigger", "grad")
    assert records["gate"] == names("coef/beta", "coef/pi", "coef/gate")
    for s, (i, m) in product(range(3), enumerate(method.mods)):
        own = [row[f"coef/nll/{m}"] for row in rows if row["phase"] == "budget" and row["seed"] == s + 1]
        assert method.budgets.nll[s, i].item() == min(own)


# ------------------------------------------------------------------- against the slow trainer


def assert_same(method: Method, slow: Slow) -> None:
    for name, value in slow.p.items():
        assert (method.get_parameter(name)[slow.s] - value).abs().max() < 1e-10, name
    memory, s = method.prototypes, slow.s
    for (i, m), c in product(enumerate(slow.mods), range(method.C)):
        assert bool(memory.known[s, i, c]) == ((m, c) in slow.P)
        if (m, c) in slow.P:
            assert (memory.P[s, i, c] - slow.P[m, c]).abs().max() < 1e-10
        assert memory.mean[s, i].item() == pytest.approx(slow.mean.get(m, 0.0), abs=1e-10)


@pytest.mark.parametrize(
    ("M", "target", "absent", "align", "level"),
    [
        (2, "logits", 0.0, "kl", "sample"),
        (2, "logits", 0.0, "hinge", "sample"),
        (2, "logits", 0.0, "kl", "dataset"),
        (3, "logits", 0.3, "kl", "sample"),
        (3, "logits", 0.3, "hinge", "dataset"),
        (3, "features", 0.2, "kl", "sample"),
    ],
)
def test_training_equals_a_loop_over_seeds_and_samples(
    M: int, target: str, absent: float, align: str, level: str
) -> None:
    data = feed(feature_set(M, absent=absent, easy=0.5))
    method = rigged(iib(data, warmup=-1, ramp=2, align=align, trigger_level=level, gate_target=target))
    slow = [Slow(method, s, align, level, target) for s in range(3)]
    for _ in range(2):
        method.begin_epoch(None)
        batches = steps(method, data, 4)
        for each in slow:
            each.begin_epoch()
            for batch in batches:
                each.train_step(batch)
    for each in slow:
        assert_same(method, each)
    hits, pairs = sum(each.hits for each in slow), sum(each.pairs for each in slow)
    assert 0 < hits < pairs
    assert {each.anchor for each in slow} == set(method.mods)


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (3, 0.3)])
def test_budget_steps_equal_a_loop_over_seeds_and_samples(M: int, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    method = aimed(iib(data), "budget")
    slow = [Slow(method, s) for s in range(3)]
    batches = steps(method, data, 4)
    for each in slow:
        for batch in batches:
            each.budget_step(batch)
        assert_same(method, each)


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (3, 0.3)])
def test_gate_steps_equal_a_loop_over_seeds_and_samples(M: int, absent: float) -> None:
    data = feed(feature_set(M, absent=absent))
    method = rigged(iib(data))
    steps(method, data, 4)
    with torch.no_grad():
        for p in method.judge.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1), dtype=D64))
    aimed(method, "gate").train()
    slow = [Slow(method, s) for s in range(3)]
    batches = steps(method, data, 4, "val")
    for each in slow:
        for batch in batches:
            each.gate_step(batch)
        for name, value in each.p.items():
            assert (method.get_parameter(name)[each.s] - value).abs().max() < 1e-10, name
