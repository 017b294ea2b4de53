"""Similarity network fusion against loops, graph encoders against sums over nodes, and BMLMI on top of both."""

from __future__ import annotations

import math
from copy import deepcopy
from itertools import combinations

import numpy as np
import pytest
import torch

from mmbal_cli.data.features import FeatureSet, from_arrays
from mmbal_cli.engine.feed import Feed, predictions, scores
from mmbal_cli.engine.fit import Fit
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Method
from mmbal_cli.nn import graph
from mmbal_cli.nn.graph import GraphAdapter, SimilarityGraph
from mmbal_cli.ops.graph import fused_affinity, half_on_diagonal, log_affinity, normalised_adjacency
from mmbal_cli.recipe import TrainConfig
from mmbal_cli.seeds import SeedStreams
from tests.kit.features import CONFIG, build, feature_set, feed, fit
from tests.methods.bmlmi_reference import Params, Slow

D64 = torch.float64
SIZES = {"audio": 7, "depth": 4, "text": 6}


def flat_set(M: int = 3, n: int = 52, classes: int = 4, easy: float = 0.0) -> FeatureSet:
    """Complete [N,F] features."""
    g = np.random.default_rng(0)
    total = n + 2 * (n // 3)
    labels = np.arange(total) % classes
    x = {m: g.normal(size=(total, SIZES[m])) for m in list(SIZES)[:M]}
    x = {m: (v + easy * g.normal(size=(classes, SIZES[m]))[labels]).astype("float32") for m, v in x.items()}
    arrays = {"ids": [f"s{i}" for i in range(total)], "labels": labels, "features": x,
              "splits": ["train"] * n + ["val"] * (n // 3) + ["test"] * (n // 3),
              "mask": {m: np.ones(total, bool) for m in x}}  # fmt: skip
    return from_arrays("flat", "f" * 64, tuple("abcd"[:classes]), arrays)


def slow_fusion(x: list[np.ndarray], K: int, rounds: int) -> list[list[float]]:
    """The formula by loops over pairs of samples."""
    N, M = len(x[0]), len(x)
    K = min(K, N - 1)
    R = range(N)
    Ps, Ss = [], []
    for features in x:
        d = [
            [math.sqrt(sum((a - b) ** 2 for a, b in zip(features[i], features[j], strict=True))) for j in R] for i in R
        ]
        near = [sorted((j for j in R if j != i), key=lambda j, i=i: d[i][j])[:K] for i in R]
        r = [sum(d[i][j] for j in near[i]) / K for i in R]
        W = [[math.exp(-(d[i][j] ** 2) / (0.5 * (r[i] + r[j] + d[i][j]) / 3)) for j in R] for i in R]
        Ps.append([[0.5 if i == j else W[i][j] / (2 * sum(W[i][k] for k in R if k != i)) for j in R] for i in R])
        Ss.append([[W[i][j] / sum(W[i][k] for k in near[i]) if j in near[i] else 0.0 for j in R] for i in R])
    for _ in range(rounds if M > 1 else 0):
        fresh = []
        for m in range(M):
            Q = np.array([[sum(Ps[k][i][j] for k in range(M) if k != m) / (M - 1) for j in R] for i in R])
            P = (np.array(Ss[m]) @ Q @ np.array(Ss[m]).T).tolist()
            fresh.append([[0.5 if i == j else P[i][j] / (2 * sum(P[i][k] for k in R if k != i)) for j in R] for i in R])
        Ps = fresh
    return [[sum(P[i][j] + P[j][i] for P in Ps) / (2 * M) for j in R] for i in R]


def random_features(N: int, *sizes: int) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(N)
    return [torch.randn(N, F, generator=g, dtype=D64) for F in sizes]


@pytest.mark.parametrize(
    ("N", "sizes", "K", "rounds"),
    [
        (9, (3, 2), 3, 1),
        (9, (3, 2), 3, 4),
        (26, (5, 3, 2), 20, 20),
        (8, (4, 2), 20, 20),
        (7, (3,), 2, 20),
        (2, (3, 2), 20, 3),
    ],
)
def test_fusion_equals_loops_over_pairs(N: int, sizes: tuple[int, ...], K: int, rounds: int) -> None:
    x = random_features(N, *sizes)
    expected = torch.tensor(slow_fusion([v.numpy() for v in x], K, rounds), dtype=D64)
    assert (fused_affinity(x, K, rounds) - expected).abs().max() < 1e-12


def test_the_network_is_symmetric_and_blind_to_the_order_of_samples_and_modalities() -> None:
    x = random_features(40, 6, 3, 4)
    A, order = fused_affinity(x), torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert torch.equal(A, A.T)
    assert (A > 0).all()
    assert (fused_affinity([v[order] for v in x]) - A[order][:, order]).abs().max() < 1e-12
    assert (fused_affinity(x[::-1]) - A).abs().max() < 1e-12
    assert A.sum() == pytest.approx(40)  # the rows of every P sum to one


def test_many_features_and_equal_samples_stay_defined() -> None:
    wide = torch.randn(30, 20_000, generator=torch.Generator().manual_seed(0))
    assert log_affinity(wide, 20)[0].min() < math.log(torch.finfo(torch.float32).tiny)
    same = torch.zeros(30, 4)
    for x in ([wide, wide.flip(0)], [same, same], [wide[:1], same[:1]], [wide[:2], same[:2]]):
        A = normalised_adjacency(fused_affinity(x))
        assert torch.isfinite(A).all()
        assert (A >= 0).all()
    assert (fused_affinity([wide, wide.flip(0)]).fill_diagonal_(0).sum(1) > 0.1).all()


def test_normalising_equals_the_formula() -> None:
    A = torch.rand(5, 5, generator=torch.Generator().manual_seed(0), dtype=D64)
    A = A + A.T
    D = torch.diag((A + torch.eye(5)).sum(1) ** -0.5)
    assert torch.allclose(normalised_adjacency(A), D @ (A + torch.eye(5)) @ D)
    P = half_on_diagonal(A)
    assert torch.allclose(P.sum(1), torch.ones(5, dtype=D64))
    assert (P.diagonal() == 0.5).all()


# -------------------------------------------------------------------------------------- encoders


def network(data: Feed, mods: tuple[str, ...]) -> SimilarityGraph:
    found = SimilarityGraph(mods)
    found.connect(data.x, normalised_adjacency(fused_affinity([data.x[m] for m in mods])))
    return found


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_graph_encoder_equals_sums_over_all_nodes(depth: int) -> None:
    data = feed(flat_set(2, n=18))
    net = network(data, ("audio", "depth"))
    config = TrainConfig(width=5, depth=depth)
    layer = GraphAdapter(SeedStreams((1, 2)), "audio", net, 7, config, D64)
    rows = torch.tensor([[3, 0, 29, 3], [1, 2, 17, 5]])
    got, N = layer(rows, None), len(data.y)
    A = net.adjacency
    for s in range(2):
        H = [data.x["audio"][i] for i in range(N)]
        for linear in layer.mlp.layers:
            mixed = [sum(A[i, j] * H[j] for j in range(N)) for i in range(N)]
            H = [torch.relu(v @ linear.weight[s] + linear.bias[s, 0]) for v in mixed]
        for b in range(4):
            assert (got[s, b] - H[int(rows[s, b])]).abs().max() < 1e-12


def test_copies_share_one_network_that_is_not_stored() -> None:
    data = feed(flat_set(2, n=18))
    net = SimilarityGraph(("audio", "depth"))
    layer = GraphAdapter(SeedStreams((1,)), "audio", net, 7, CONFIG, D64)
    copy = deepcopy(layer)
    net.connect(data.x, network(data, ("audio", "depth")).adjacency)
    assert copy.graph is net
    assert torch.equal(copy(torch.tensor([[1, 2]])), layer(torch.tensor([[1, 2]])))
    assert all(key.startswith("mlp.") for key in layer.state_dict())
    assert all(value.shape[0] == 1 for value in layer.state_dict().values())
    layer.float()
    assert copy.graph.adjacency.dtype == torch.float32


def test_what_a_network_cannot_be_built_from_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for features in (feature_set(2), feature_set(1, absent=0.2)):
        data = feed(features)
        with pytest.raises(UsageError, match=r"graph=snf cannot use .* graph=none takes any data"):
            Fit(build("bmlmi", data, graph="snf"), data)
        Fit(build("bmlmi", data), data)
    data = feed(flat_set(2))
    monkeypatch.setattr(graph, "MOST_NODES", len(data.y))
    Fit(build("bmlmi", data, graph="snf"), data)
    monkeypatch.setattr(graph, "MOST_NODES", len(data.y) - 1)
    with pytest.raises(UsageError, match=r"86 x 86 samples.*up to 85"):
        Fit(build("bmlmi", data, graph="snf"), data)


# ----------------------------------------------------------------------------------------- BMLMI


def snf(data: Feed, seeds: tuple[int, ...] = (1, 2, 3), config: TrainConfig = CONFIG, **knobs: object) -> Method:
    return build("bmlmi", data, seeds, config, graph="snf", **knobs)


@pytest.mark.parametrize(("M", "knobs"), [(2, {}), (3, {"kd_gate": "always", "apply": "gradnorm", "holdout": 0.2})])
def test_all_stages_equal_loops_with_dense_products(M: int, knobs: dict) -> None:
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 2}))
    data = feed(flat_set(M))
    mods = tuple(list(SIZES)[:M])
    A = torch.tensor(slow_fusion([data.x[m].numpy() for m in mods], 20, 20), dtype=D64) + torch.eye(len(data.y))
    A = torch.diag(A.sum(1) ** -0.5) @ A @ torch.diag(A.sum(1) ** -0.5)

    def features(p: Params, rows: list[int]) -> list[dict[str, torch.Tensor]]:
        H = dict(data.x)
        for m in mods:
            for k in range(config.depth):
                W, b = (p[f"enc.{m}_.mlp.layers.{k}.{part}"] for part in ("weight", "bias"))
                H[m] = torch.relu(A @ H[m] @ W + b[0])
        return [{m: H[m][row] for m in mods} for row in rows]

    fresh, run = snf(data, config=config, **knobs), Fit(snf(data, config=config, **knobs), data)
    states = []
    for rows in run.run():
        if rows[0]["phase"] == "train":
            states.append({k: v.clone() for k, v in run.method.state_dict().items()})
    for i in range(3):
        slow = Slow(fresh, i, i + 1, data, features)
        for state, (p, w) in zip(states, slow.run(), strict=True):
            assert max((state[name][i] - value).abs().max() for name, value in p.items()) < 1e-10
            assert state["w"][i].tolist() == pytest.approx(w, abs=1e-10)
        assert states[0]["students"][i].tolist() == slow.students


def test_a_seed_is_bitwise_the_same_alone_and_in_company() -> None:
    data = feed(flat_set(3), "float32")
    config = TrainConfig(**(CONFIG.model_dump() | {"dtype": "float32", "width": 64, "dropout": 0.2, "clip": 0.5}))
    stacked = snf(data, (1, 2, 3, 4, 5), config)
    fit(stacked, data)
    for group in ((2,), (4, 5)):
        part = snf(data, group, config)
        fit(part, data)
        for i, seed in enumerate(group):
            assert all(torch.equal(v[i], stacked.state_dict()[k][seed - 1]) for k, v in part.state_dict().items())


def test_resume_is_bitwise() -> None:
    data = feed(flat_set(2))
    whole = Fit(snf(data), data)
    list(whole.run())
    part = Fit(snf(data), data)
    while part.finished < 12:
        next(iter(part.run()))
        tensors, meta = part.state()
        part = Fit(snf(data), data)
        part.load({k: v.clone() for k, v in tensors.items()}, meta)
    assert all(torch.equal(whole.chosen.state[k], part.chosen.state[k]) for k in whole.chosen.state)
    assert not any("adjacency" in k or "graph" in k for k in whole.chosen.state)


@pytest.mark.parametrize("M", [1, 2, 3])
def test_learns_an_easy_set(M: int) -> None:
    data = feed(flat_set(M, n=120, easy=3.0))
    config = TrainConfig(**(CONFIG.model_dump() | {"epochs": 25, "width": 16}))
    run = fit(snf(data, config=config), data)
    run.use_best()
    assert (scores(run.method, data.split("val", 3))["accuracy"] >= 0.95).all()


def test_a_prediction_depends_on_other_samples_features_but_not_on_their_labels() -> None:
    features = flat_set(2)
    data, moved, named = feed(features), feed(features), feed(features)
    first = features.rows["test"][0]
    moved.x = {m: v.clone() for m, v in moved.x.items()}
    for m in moved.x:
        moved.x[m][features.rows["test"][1:]] += 1.0
    named.y = named.y.clone()
    named.y[features.rows["test"]] = 0
    found = []
    for each in (data, moved, named):
        run = fit(snf(each), each)
        run.use_best()
        found.append(predictions(run.method, each, "test")["probs"][:, 0])
    assert torch.equal(data.x["audio"][first], moved.x["audio"][first])
    assert not torch.allclose(found[0], found[1], atol=1e-6)
    assert torch.equal(found[0], found[2])


def test_pairs_of_modalities_reach_the_fusion() -> None:
    x = random_features(25, 3, 4, 5)
    whole = fused_affinity(x)
    for pair in combinations(x, 2):
        assert not torch.allclose(fused_affinity(list(pair)), whole, atol=1e-6)
