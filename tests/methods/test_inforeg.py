"""InfoReg: the numeric checks of the specification, and an independent loop over seeds and samples."""

from __future__ import annotations

import math

import pytest
import torch

from mmbal_cli.engine.feed import Feed
from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops.acquisition import advantage, growth, lead
from mmbal_cli.ops.losses import ce
from tests.kit.features import build, feature_set, feed, fit
from tests.methods import reference

D64 = torch.float64
ALWAYS = -1e9


def tensor(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=D64)


def epochs_of(method: Method, data: Feed, n: int) -> list[list[Batch]]:
    return [list(data.epoch(method.rng, method.config.batch)) for _ in range(n)]


def train(method: Method, epochs: list[list[Batch]]) -> None:
    """Epochs with the hooks that they have in the engine, which show nothing here."""
    for method.epoch, batches in enumerate(epochs):
        method.begin_epoch(None)  # type: ignore[arg-type]
        for batch in batches:
            method.step(batch)
        method.end_epoch(None)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- numbers


def test_known_leads_give_known_strengths() -> None:
    beta = 0.95 * lead(tensor([0.75, 0.25], [1.0, 0.0], [0.2, 0.7]), 1.0)
    assert beta[0].tolist() == pytest.approx([1.508060, 0], abs=1e-6)
    assert beta[2].tolist() == pytest.approx([0, 1.508060], abs=1e-6)
    full = lead(tensor([0.9, 0.2]), 64.0)
    assert (0.95 * full).flatten().tolist() == pytest.approx([2.582368, 0], abs=1e-6)
    assert (0.1 * lead(tensor([0.5, 0.0]), 1.0))[0, 0].item() == pytest.approx(0.158743, abs=1e-6)


def test_means_times_the_batch_size_are_the_sums_of_the_official_code() -> None:
    g = torch.Generator().manual_seed(0)
    p, q = torch.rand(64, generator=g, dtype=D64), torch.rand(64, generator=g, dtype=D64)
    found = lead(torch.stack([p.mean(), q.mean()])[None], 64.0).max().item()
    assert found == pytest.approx(math.exp(math.tanh(abs(float(p.sum() - q.sum())))))


def test_three_modalities_lead_by_the_second_and_ties_lead_nobody() -> None:
    w = lead(tensor([0.1, 0.6, 0.4], [0.5, 0.5, 0.1], [0.3, 0.3, 0.3]), 2.0)
    assert w[0].tolist() == pytest.approx([0, math.exp(math.tanh(0.4)), 0])
    assert not w[1:].any()


def test_losses_lead_by_the_mean_of_the_others() -> None:
    w = advantage(tensor([0.4, 1.0, 0.9], [0.7, 0.7, 2.0], [0.0, 0.0, 0.0]))
    assert w[0].tolist() == pytest.approx([0.55, 0, 0])
    assert not w[1:].any()
    assert advantage(tensor([2.0, 0.5]))[0].tolist() == pytest.approx([0, 1.5])


def test_a_constant_trace_closes_the_window_after_ten_epochs() -> None:
    traces, found = torch.zeros(1, 1, 11, dtype=D64), {}
    for epoch in range(1, 14):
        traces = torch.cat([traces[..., 1:], torch.ones(1, 1, 1, dtype=D64)], -1)
        found[epoch] = growth(traces).item()
    assert [found[e] for e in (1, 2, 3, 10, 11)] == pytest.approx([1, 0.5, 1 / 3, 0.1, 0])
    assert [e for e, k in found.items() if k > 0.05] == list(range(1, 11))  # and epoch 0, where k is 1


def test_growth_is_that_of_two_windows_shifted_by_one_epoch() -> None:
    history = torch.rand(2, 3, 9, generator=torch.Generator().manual_seed(0), dtype=D64)
    for n in (1, 4, 8):
        last, before = history[..., -n:].mean(-1), history[..., -n - 1 : -1].mean(-1)
        assert torch.allclose(growth(history[..., -n - 1 :]), (last - before) / last)
    assert growth(torch.zeros(1, 2, 5, dtype=D64)).tolist() == [[0, 0]]
    assert growth(tensor([4.0, 1.0])[None]).item() == -3


# ----------------------------------------------------------------------------------------------- method


def test_the_pull_adds_beta_times_the_way_from_where_the_epoch_began() -> None:
    data = feed(feature_set(2))
    method = build("inforeg", data, (1,))
    method.begin_epoch(None)  # type: ignore[arg-type]
    with torch.no_grad():
        for m in method.mods:
            for p in method.enc[m].parameters():
                p.fill_(2.0)
            method.began[m] = [torch.full_like(p, 1.5) for p in method.enc[m].parameters()]
    method.opt.zero_grad()
    for p in method.parameters():
        p.grad = torch.zeros_like(p)
    method.strength = lambda out, batch: tensor([2.0 / 0.95, 0.0])
    method.modulate(None, None)  # type: ignore[arg-type]
    assert all(torch.allclose(p.grad, torch.ones_like(p)) for p in method.enc["audio"].parameters())
    others = [*method.enc["video"].parameters(), *method.fusion.parameters()]
    assert all(not p.grad.any() for p in others)
    assert not method.trace.any()  # the pull is not in the trace


def test_the_first_step_of_each_epoch_is_free() -> None:
    data = feed(feature_set(2))
    weak, strong = build("inforeg", data, K=ALWAYS), build("inforeg", data, K=ALWAYS, base=5.0)
    steps = epochs_of(weak, data, 2)
    for e in range(2):
        strong.load_state_dict(weak.state_dict())
        for method in (weak, strong):
            method.opt = method.optimizer()
            method.epoch = e
            method.begin_epoch(None)  # type: ignore[arg-type]
        for number, batch in enumerate(steps[e]):
            weak.step(batch)
            strong.step(batch)
            same = all(torch.equal(p, q) for p, q in zip(weak.parameters(), strong.parameters(), strict=True))
            assert same == (number == 0)
        for method in (weak, strong):
            method.end_epoch(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["code", "paper"])
def test_a_closed_window_is_uniform(form: str) -> None:
    data = feed(feature_set(3, absent=0.2))
    plain, method = build("uniform", data), build("inforeg", data, K=1.0, form=form)
    fit(plain, data)
    fit(method, data)
    state = method.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())


def test_every_loss_reaches_the_bias_of_the_head() -> None:
    data = feed(feature_set(2))
    method = build("inforeg", data)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    assert torch.allclose(out.z["audio"] + out.z["video"], out.fused, atol=1e-14)
    expected = ce(out.fused, batch.y) + sum(ce(out.z[m], batch.y) for m in method.mods)
    assert torch.allclose(method.loss(out, batch), expected)
    bias = method.fusion.head.bias
    grads = [
        torch.autograd.grad(ce(z, batch.y).sum(), bias, retain_graph=True)[0] for z in (out.fused, *out.z.values())
    ]
    assert all(g.any() for g in grads)
    method.step(batch)
    assert torch.allclose(bias.grad, sum(grads), atol=1e-14)


@pytest.mark.parametrize("form", ["code", "paper"])
def test_samples_that_lack_a_modality_are_not_compared(form: str) -> None:
    data = feed(feature_set(3, absent=0.3))
    method = build("inforeg", data, form=form)
    batch = next(data.epoch(method.rng, 16))
    out = method(batch)
    found = method.strength(out, batch)
    for i in range(3):
        whole = [b for b in range(16) if all(batch.present(m)[i, b] for m in method.mods)]
        z = {m: out.z[m][i, whole].detach() for m in method.mods}
        y = batch.y[i, whole]
        p = {m: float(z[m].softmax(-1)[range(len(whole)), y].mean()) for m in method.mods}
        nll = {m: float(-z[m].log_softmax(-1)[range(len(whole)), y].mean()) for m in method.mods}
        best = max(p, key=p.get) if form == "code" else min(nll, key=nll.get)
        if form == "code":
            value = math.exp(math.tanh(64 * (p[best] - max(p[m] for m in p if m != best))))
        else:
            value = sum(nll[m] - nll[best] for m in nll if m != best) / 2
        assert found[i].tolist() == pytest.approx([value if m == best else 0 for m in method.mods])
    gone = {m: torch.zeros_like(mask) for m, mask in batch.mask.items()}
    assert not method.strength(out, Batch(batch.x, batch.y, batch.idx, gone)).any()


# -------------------------------------------------------------------------------------------- reference


def slow(method: Method, i: int, epochs: list[list[Batch]], K: float, base: float, form: str, n: int) -> dict:
    """Seed i by loops over samples; its weights, traces of all epochs and strengths of all steps."""
    p, velocity, mods = (
        {k: v[i].detach().clone().requires_grad_() for k, v in method.named_parameters()},
        {},
        method.mods,
    )
    M, D, C = len(mods), method.D, method.config
    traces: dict[str, list[float]] = {m: [] for m in mods}
    strengths = []
    for epoch, batches in enumerate(epochs):
        start = {name: value.detach().clone() for name, value in p.items()}
        trace, k = dict.fromkeys(mods, 0.0), {}
        for m in mods:
            past = [0.0] * (n + 1) + traces[m]
            new, old = sum(past[-n:]) / n, sum(past[-n - 1 : -1]) / n
            k[m] = 1.0 if epoch == 0 else (new - old) / new
        for batch in batches:
            B = batch.y.shape[1]
            fused, own, true = [], {m: [] for m in mods}, {m: [] for m in mods}
            for b in range(B):
                has = [m for m in mods if batch.present(m) is None or bool(batch.present(m)[i, b])]
                z, y = p["fusion.head.bias"][0], int(batch.y[i, b])
                for j, m in enumerate(mods):
                    h = reference.adapter(p, m, batch.x[m][i, b]) if m in has else torch.zeros(D, dtype=D64)
                    part = h @ p["fusion.head.weight"][j * D : (j + 1) * D]
                    z = z + part
                    if m in has:
                        own[m].append(reference.cross_entropy(part + p["fusion.head.bias"][0] / M, y))
                    if len(has) == M:
                        true[m].append(own[m][-1].item())
                fused.append(reference.cross_entropy(z, y))
            (sum(fused) / B + sum(sum(each) / len(each) for each in own.values())).backward()
            beta = dict.fromkeys(mods, 0.0)
            if form == "code":
                s = {m: sum(math.exp(-loss) for loss in true[m]) / len(true[m]) for m in mods}
                first = max(mods, key=lambda m: s[m])
                beta[first] = base * math.exp(math.tanh(5 * (s[first] - max(s[m] for m in mods if m != first))))
            else:
                s = {m: sum(true[m]) / len(true[m]) for m in mods}
                first = min(mods, key=lambda m: s[m])
                beta[first] = base * (sum(s[m] for m in mods if m != first) / (M - 1) - s[first])
            beta[first] = beta[first] if k[first] > K else 0.0
            strengths.append([beta[m] for m in mods])
            for m in mods:
                for name, value in p.items():
                    if name.startswith(f"enc.{m}_."):
                        if name.endswith("weight"):
                            trace[m] += float((value.grad**2).sum()) / value.numel()
                        value.grad += beta[m] * (value.detach() - start[name])
            reference.sgd(p, velocity, C.lr, C.momentum, C.weight_decay)
        for m in mods:
            traces[m].append(trace[m])
    return {"weights": p, "traces": traces, "strengths": strengths}


@pytest.mark.parametrize("absent", [0.0, 0.3])
@pytest.mark.parametrize(
    ("M", "form", "K"), [(2, "code", 0.05), (3, "code", 0.3), (2, "paper", 0.0), (3, "paper", 0.0)]
)
def test_epochs_equal_a_loop_over_seeds_and_samples(M: int, form: str, K: float, absent: float) -> None:
    data = feed(feature_set(M, n=32, absent=absent, seed=1))
    knobs = {"form": form, "K": K, "base": 2.0, "tau": 5.0, "history": 2}
    method, fresh = (build("inforeg", data, (1, 2), **knobs) for _ in range(2))
    epochs = epochs_of(method, data, 5)
    found: list[torch.Tensor] = []
    log = method.log
    method.log = lambda name, value: found.append(value) if "/beta/" in name else log(name, value)
    train(method, epochs)
    n = 2 if form == "code" else 1
    beta = torch.stack(found).view(-1, M, 2)  # [steps,M,S]
    assert (beta.sum(1) > 0).any()
    assert (beta.sum(1) == 0).any()  # both sides of the window occur
    for i in range(2):
        expected = slow(fresh, i, epochs, K, 2.0, form, n)
        assert (beta[..., i] - torch.tensor(expected["strengths"], dtype=D64)).abs().max() < 1e-9
        for name, value in method.named_parameters():
            assert (value[i] - expected["weights"][name]).abs().max() < 1e-10, name
        for j, m in enumerate(method.mods):
            assert method.traces[i, j].tolist() == pytest.approx(expected["traces"][m][-n - 1 :], rel=1e-9)
