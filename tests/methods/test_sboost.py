"""Sustained boosting: the numeric checks of the specification, and a loop over seeds, turns and samples."""

from __future__ import annotations

import pytest
import torch

from mmbal_cli.methods.base import Method
from mmbal_cli.nn.boosted import Growing
from mmbal_cli.ops.boosting import lagging, sustained
from mmbal_cli.ops.losses import ce
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import CONFIG, build, feature_set, feed
from tests.methods import reference
from tests.methods.alternating_reference import epochs, mean, samples

D64 = torch.float64
ALWAYS = {"zone": 0.0, "every": 0.25}  # someone is ahead after every epoch


def row(*values: float) -> torch.Tensor:
    return torch.tensor([[values]], dtype=D64)


def test_known_logits_give_the_known_losses() -> None:
    earlier, newest, y = row(0, 0), row(1, 0), torch.zeros(1, 1, dtype=torch.long)
    before, residual = sustained(earlier, newest, y, 0.5)
    whole = ce(earlier + newest, y)
    assert whole.item() == pytest.approx(0.313262, abs=1e-6)
    assert before.item() == pytest.approx(0.693147, abs=1e-6)
    assert residual.item() == pytest.approx(0.234946, abs=1e-6)
    assert (whole + before + residual).item() == pytest.approx(1.241355, abs=1e-6)
    assert sustained(earlier, newest, y, 0)[1].item() == pytest.approx(ce(newest, y).item())
    assert sustained(row(1000, 0), newest, y, 1)[1].item() == 0


def test_the_residual_is_no_business_of_the_earlier_ones() -> None:
    earlier, newest, y = row(0.5, 0).requires_grad_(), row(1, 0).requires_grad_(), torch.zeros(1, 1, dtype=torch.long)
    sustained(earlier, newest, y, 0.5)[1].sum().backward()
    assert earlier.grad is None
    assert newest.grad.abs().sum() > 0


def test_the_weaker_modality_gets_a_classifier_beyond_the_dead_zone() -> None:
    N = torch.full((4, 2), 50.0)
    score = 50 * torch.tensor([[0.8, 0.6], [0.603, 0.6], [0.6, 0.8], [0.7, 0.7]])
    assert lagging(score, N, 0.01).tolist() == [[False, True], [False, False], [True, False], [False, False]]


def test_of_many_modalities_the_weakest_that_was_heard() -> None:
    score, count = torch.tensor([[8.0, 3.0, 0.0, 6.0]]), torch.tensor([[10.0, 5.0, 0.0, 15.0]])
    assert lagging(score, count, 0.01).tolist() == [[False, False, False, True]]
    assert not lagging(torch.zeros(1, 3), torch.zeros(1, 3), 0.0).any()
    assert not lagging(torch.zeros(1, 3), torch.ones(1, 3), 0.01).any()
    assert not lagging(torch.ones(1, 1), torch.ones(1, 1), 0.0).any()
    assert not lagging(torch.tensor([[torch.nan, 1.0]]), torch.ones(1, 2), 0.0).any()


def head(K: int = 3) -> Growing:
    return Growing(SeedStreams((1, 2)), ("a", "v"), 5, 4, K, D64)


def test_logits_are_sums_over_the_classifiers_in_use() -> None:
    grown, h = head(4), torch.randn(2, 6, 5, dtype=D64, generator=torch.Generator().manual_seed(0))
    grown.count.copy_(torch.tensor([[1, 3], [4, 2]]))
    for j, m in enumerate(("a", "v")):
        earlier, newest = grown(h, m)
        for s in range(2):
            each = [
                torch.relu(h[s] @ f.weight[s] + f.bias[s]) @ grown.last.weight[s] + grown.last.bias[s]
                for f in grown.places(m)
            ]
            n = int(grown.count[s, j])
            assert torch.allclose(newest[s], each[n - 1])
            assert torch.allclose(earlier[s], sum(each[: n - 1], torch.zeros(6, 4, dtype=D64)))
    assert torch.equal(grown(h, "v")[0], grown(h, "v", 3)[0])


def test_a_classifier_of_zeros_adds_the_shared_bias_once() -> None:
    grown, h = head(), torch.randn(2, 6, 5, dtype=D64)
    before = sum(grown(h, "a"))
    for p in grown.places("a")[1].parameters():
        torch.nn.init.zeros_(p)
    grown.count[:, 0] += 1
    assert torch.allclose(sum(grown(h, "a")) - before, grown.last.bias.expand_as(before))


def test_added_classifiers_start_as_glorot_says_in_both_precisions() -> None:
    wide = Growing(SeedStreams((1, 2)), ("a",), 64, 4, 2, D64)
    narrow = Growing(SeedStreams((1, 2)), ("a",), 64, 4, 2, torch.float32)
    first, added = wide.places("a")
    assert added.weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    assert not added.bias.any()
    assert first.weight.abs().max() <= 64**-0.5
    assert torch.equal(narrow.places("a")[1].weight, added.weight.float())
    assert not torch.equal(added.weight[0], added.weight[1])


@pytest.mark.parametrize(("E", "every", "checks"), [(200, 0.1, 10), (4, 0.1, 3), (1, 0.1, 0), (30, 0.1, 10), (9, 1, 1)])
def test_there_are_as_many_places_as_checks_and_one(E: int, every: float, checks: int) -> None:
    data = feed(feature_set(2))
    method = build("sboost", data, config=CONFIG.model_copy(update={"epochs": E}), every=every)
    assert method.places(E - 1) == method.grown.K == 1 + checks
    period = max(1, round(E * every)) if E > 1 else 1
    due = [e for e in range(1, E) if (e - 1) % period == 0]
    assert len(due) == checks
    assert [method.places(e) for e in range(E)] == [1 + sum(d <= e for d in due) for e in range(E)]


def test_one_classifier_is_alternating_training_with_a_shared_last_layer() -> None:
    data = feed(feature_set(3, absent=0.2))
    method, plain = build("sboost", data, zone=1000.0), build("sboost", data, zone=1000.0)
    for batches in epochs(method, data):
        plain.opt.set_epoch(plain.epoch, 4)
        plain.epoch += 1
        for batch in batches:
            for m in plain.mods:
                hidden = torch.relu(plain.grown.places(m)[0](plain.enc[m](batch.x[m], batch.mask[m])))
                plain.opt.zero_grad()
                ce(plain.grown.last(hidden), batch.y, batch.present(m)).sum().backward()
                plain.opt.step()
    assert (method.grown.count == 1).all()
    for (name, a), b in zip(method.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-12), name


def grown_up(method: Method, data: object) -> list:
    """Train; the counts at the end, and every batch."""
    fed = epochs(method, data)
    assert (method.grown.count.sum(1) > len(method.mods) + 1).any()
    return fed


def test_places_not_in_use_never_move_and_fixed_ones_neither() -> None:
    data = feed(feature_set(3))
    for added in ("trained", "fixed"):
        method, fresh = build("sboost", data, added=added, **ALWAYS), build("sboost", data, added=added, **ALWAYS)
        grown_up(method, data)
        for j, m in enumerate(method.mods):
            for t, (layer, first) in enumerate(zip(method.grown.places(m), fresh.grown.places(m), strict=True)):
                still = method.grown.count[:, j] <= t
                for p, q in zip(layer.parameters(), first.parameters(), strict=True):
                    same = torch.tensor([torch.equal(p[s], q[s]) for s in range(3)])
                    assert torch.equal(same, still | torch.tensor(added == "fixed" and t > 0))


def test_a_new_classifier_starts_without_momentum_in_its_own_seed_only() -> None:
    data = feed(feature_set(2))
    method = build("sboost", data, **ALWAYS)
    method.train()
    method.epoch = 2
    for batch in data.epoch(method.rng, 16):
        method.step(batch)
    method.epoch, m = 3, method.mods[1]
    method.score.copy_(torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 2.0]]))
    method.heard.fill_(2)
    method.begin_epoch(None)
    assert method.grown.count.tolist() == [[1, 2], [1, 2], [2, 1]]
    buffer = method.opt.inner.state[method.grown.places(m)[1].weight]["momentum_buffer"]
    assert not buffer[:2].any()
    assert buffer[2].any()
    assert method.opt.rates[method.grown.places(m)[1].weight].tolist() == [1, 1, 0]
    assert not method.score.any()


def test_a_validated_model_has_no_classifier_that_was_not_trained() -> None:
    data = feed(feature_set(2))
    method, fresh = build("sboost", data, **ALWAYS), build("sboost", data, **ALWAYS)
    seen, end = [], method.end_epoch

    def watched(peek: object) -> None:
        seen.append(method.grown.count.clone())
        for j, m in enumerate(method.mods):
            for t, (layer, first) in enumerate(zip(method.grown.places(m), fresh.grown.places(m), strict=True)):
                for s in range(3):
                    assert torch.equal(layer.weight[s], first.weight[s]) == (t >= method.grown.count[s, j])
        end(peek)

    method.end_epoch = watched
    epochs(method, data)
    assert [int(count.sum()) for count in seen] == [6, 9, 12, 15]  # one for each of three seeds at every check


@pytest.mark.parametrize(("M", "absent"), [(2, 0.0), (3, 0.0), (3, 0.3)])
@pytest.mark.parametrize("added", ["trained", "fixed"])
def test_epochs_equal_a_loop_over_seeds_turns_and_samples(M: int, absent: float, added: str) -> None:
    data, lam = feed(feature_set(M, n=32, easy=1.0, absent=absent)), 0.8
    config = CONFIG.model_copy(update={"epochs": 5})
    knobs = {"lam": lam, "zone": 0.01, "every": 0.2, "added": added}  # a check after every epoch
    method, fresh = (build("sboost", data, config=config, **knobs) for _ in range(2))
    fed = epochs(method, data)
    for i in range(3):
        p = {k: v[i].detach().clone().requires_grad_() for k, v in fresh.named_parameters()}
        velocity: reference.Params = {}
        count, score = dict.fromkeys(method.mods, 1), {}

        def phi(m: str, t: int, u: torch.Tensor, p: reference.Params = p) -> torch.Tensor:
            r = torch.relu(u @ p[f"grown.first.{m}_.{t}.weight"] + p[f"grown.first.{m}_.{t}.bias"][0])
            return r @ p["grown.last.weight"] + p["grown.last.bias"][0]

        for epoch, batches in enumerate(fed):
            if epoch > 0:
                means = {m: sum(s) / len(s) for m, s in score.items()}
                weak = min(method.mods, key=lambda m: means[m])
                count[weak] += max(means.values()) / means[weak] > 1.01
            score = {m: [] for m in method.mods}
            lr = config.lr * (config.step_factor if epoch >= round(config.step_at * 5) else 1)
            for batch in batches:
                for m in method.mods:
                    losses = []
                    for x, y in samples(method, i, batch):
                        if m not in x:
                            continue
                        u = reference.adapter(p, m, x[m])
                        parts = [phi(m, t, u) for t in range(count[m])]
                        loss = reference.cross_entropy(sum(parts), y)
                        if len(parts) > 1:
                            prev = sum(parts[:-1])
                            q = float(prev.detach().softmax(0)[y])
                            loss = loss + reference.cross_entropy(prev, y)
                            loss = loss + (1 - lam * q) * reference.cross_entropy(parts[-1], y)
                        losses.append(loss)
                        score[m].append(float(sum(parts).detach().softmax(0)[y]))
                    mean(losses, torch.zeros((), dtype=D64)).backward()
                    if added == "fixed":
                        for name in p:
                            if name.startswith("grown.first") and ".0." not in name:
                                p[name].grad = None
                    reference.sgd(p, velocity, lr, config.momentum, config.weight_decay)
        assert method.grown.count[i].tolist() == [count[m] for m in method.mods]
        for name, value in method.named_parameters():
            assert (value[i] - p[name]).abs().max() < 1e-10, name
    assert (method.grown.count.amax(1) > 2).any()  # so that there are earlier, newest and unused ones
