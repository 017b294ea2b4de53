"""Mutual information and macro-F1 against known tables, loops and scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import f1_score, mutual_info_score, normalized_mutual_info_score

from mmbal_cli.ops import information as info

D64 = torch.float64
LN2 = math.log(2)
TABLES = [
    ([[2, 0], [0, 2]], LN2, 1.0),
    ([[1, 1], [1, 1]], 0.0, 0.0),
    ([[3, 1], [1, 3]], 0.13081, 0.18872),
    ([[4, 0], [4, 0]], 0.0, 0.0),
]


def heads_of(counts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [1,N,C] of two heads whose predictions have these counts."""
    pairs = [(a, b) for a, row in enumerate(counts) for b, n in enumerate(row) for _ in range(n)]
    return tuple(torch.eye(len(counts), dtype=D64)[[p[k] for p in pairs]][None] for k in range(2))  # type: ignore[return-value]


def table(counts: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    P = torch.tensor([counts], dtype=D64)
    return P / P.sum(), P.sum((1, 2))


def random_heads(S: int = 3, N: int = 40, C: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two dependent heads, labels, and a mask."""
    g = torch.Generator().manual_seed(0)
    a = torch.randn(S, N, C, generator=g, dtype=D64)
    b = a + torch.randn(S, N, C, generator=g, dtype=D64)
    return a, b, torch.randint(C, (S, N), generator=g), torch.rand(S, N, generator=g) < 0.7


@pytest.mark.parametrize(("counts", "I", "share"), TABLES)
def test_known_tables(counts: list[list[int]], I: float, share: float) -> None:  # noqa: E741
    assert info.mutual_information(table(counts)[0]).item() == pytest.approx(I, abs=1e-5)
    a, b = heads_of(counts)
    assert info.nmi(a, b).item() == pytest.approx(share, abs=1e-5)
    assert info.nmi(b, a).item() == pytest.approx(share, abs=1e-5)
    assert info.nmi(a.flip(-1), b).item() == pytest.approx(share, abs=1e-5)  # other names of the classes


def test_miller_madow_of_known_tables() -> None:
    assert info.miller_madow(*table([[3, 1], [1, 3]])).item() == pytest.approx(0.06831, abs=1e-5)
    assert info.miller_madow(*table([[1, 1], [1, 1]])).item() == 0  # -1/8, floored
    assert info.miller_madow(*table([[2, 0], [0, 2]])).item() == pytest.approx(LN2 + 1 / 8)
    a, b = heads_of([[3, 1], [1, 3]])
    assert info.nmi(a, b, "plugin_mm").item() == pytest.approx(0.06831 / LN2, abs=1e-5)
    a, b = heads_of([[2, 0], [0, 2]])
    assert info.nmi(a, b, "plugin_mm").item() == 1  # the corrected information exceeds the entropy


def test_soft_joint_of_known_probabilities() -> None:
    a = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]], dtype=D64)
    b = torch.tensor([[[0.8, 0.2], [0.2, 0.8]]], dtype=D64)
    P = info.counts(a, b)[0] / 2
    assert P.flatten().tolist() == pytest.approx([0.37, 0.13, 0.13, 0.37])
    assert info.mutual_information(P).item() == pytest.approx(0.12009, abs=1e-5)
    assert info.nmi(a.log(), b.log(), "soft").item() == pytest.approx(0.17325, abs=1e-5)


def test_plugin_is_that_of_scikit_learn_and_masks_drop_samples() -> None:
    a, b, _, present = random_heads()
    for mask in (None, present):
        got = info.nmi(a, b, "plugin", mask)
        for s in range(3):
            keep = slice(None) if mask is None else mask[s]
            said = [z[s, keep].argmax(-1).numpy() for z in (a, b)]
            expected = normalized_mutual_info_score(*said, average_method="geometric")
            assert got[s].item() == pytest.approx(expected, abs=1e-12)
            P, n = info.counts(info.decided(a), info.decided(b), mask)
            I = info.mutual_information(P / n[:, None, None])[s].item()  # noqa: E741
            assert abs(I - mutual_info_score(*said)) < 1e-12
            K = [len(set(v.tolist())) for v in said] + [len(set(zip(*(v.tolist() for v in said), strict=True)))]
            corrected = max(0.0, I + (K[0] + K[1] - K[2] - 1) / (2 * len(said[0])))
            assert info.miller_madow(P / n[:, None, None], n)[s].item() == pytest.approx(corrected, abs=1e-12)


def test_soft_equals_a_loop() -> None:
    a, b, _, present = random_heads(C=3)
    got = info.nmi(a, b, "soft", present)
    for s in range(3):
        rows = [i for i in range(40) if present[s, i]]
        p, q = a[s].softmax(-1).tolist(), b[s].softmax(-1).tolist()
        P = [[sum(p[i][x] * q[i][y] for i in rows) / len(rows) for y in range(3)] for x in range(3)]
        left, right = [sum(r) for r in P], [sum(r[y] for r in P) for y in range(3)]
        I = sum(P[x][y] * math.log(P[x][y] / (left[x] * right[y])) for x in range(3) for y in range(3))  # noqa: E741
        H = [-sum(v * math.log(v) for v in side) for side in (left, right)]
        assert got[s].item() == pytest.approx(I / math.sqrt(H[0] * H[1]), abs=1e-12)


@pytest.mark.parametrize("kind", ["plugin", "plugin_mm", "soft"])
def test_dependence_is_bounded_symmetric_and_blind_to_names_and_order(kind: str) -> None:
    a, b, _, present = random_heads()
    order, names = torch.randperm(40), torch.randperm(5)
    got = info.nmi(a, b, kind, present)
    assert ((got >= 0) & (got <= 1)).all()
    assert torch.allclose(got, info.nmi(b, a, kind, present), atol=1e-12)
    assert torch.allclose(got, info.nmi(a[..., names], b, kind, present), atol=1e-12)
    assert torch.allclose(got, info.nmi(a[:, order], b[:, order], kind, present[:, order]), atol=1e-12)
    assert torch.allclose(info.nmi(a, 9 * a), torch.ones(3, dtype=D64))


@pytest.mark.parametrize("kind", ["plugin", "plugin_mm", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, D64])
def test_degenerate_heads_have_no_dependence(kind: str, dtype: torch.dtype) -> None:
    sure = torch.tensor([50.0, -50.0, -50.0], dtype=dtype).expand(2, 7, 3)
    other = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    nobody = torch.zeros(2, 7, dtype=torch.bool)
    for found in (info.nmi(sure, other, kind), info.nmi(sure, sure, kind), info.nmi(other, other, kind, nobody),
                  info.nmi(other[:, :0], other[:, :0], kind)):  # fmt: skip
        assert found.tolist() == [0, 0]


def test_confident_probabilities_do_not_underflow() -> None:
    z = torch.tensor([[[0.0, 200.0], [200.0, 0.0], [0.0, 60.0]]])
    found = info.nmi(z, z.flip(-1), "soft")
    assert torch.isfinite(found).all()
    assert found.item() == pytest.approx(1, abs=1e-5)


def test_macro_f1_of_known_predictions() -> None:
    y = torch.tensor([[0, 0, 1, 1]])
    z = torch.eye(2, dtype=D64)[[0, 1, 1, 1]][None]
    assert info.macro_f1(z, y).item() == pytest.approx(0.73333, abs=1e-5)
    three = torch.eye(3, dtype=D64)[[0, 1, 1, 1]][None]  # nobody has or predicts class 2: it scores 0
    assert info.macro_f1(three, y).item() == pytest.approx(2 * 0.73333 / 3, abs=1e-5)
    assert info.macro_f1(z[:, :0], y[:, :0]).item() == 0


def test_macro_f1_is_that_of_scikit_learn() -> None:
    z, _, y, present = random_heads()
    y = y % 4  # class 4 is predicted, never true
    for mask in (None, present):
        got = info.macro_f1(z, y, mask)
        for s in range(3):
            keep = slice(None) if mask is None else mask[s]
            expected = f1_score(y[s, keep], z[s, keep].argmax(-1), labels=range(5), average="macro", zero_division=0)
            assert got[s].item() == pytest.approx(expected, abs=1e-12)


def test_infonce_is_a_share_of_its_bound() -> None:
    eye = 9 * torch.eye(6, dtype=D64)[None]
    loss = math.log(math.exp(10) + 5) - 10
    assert info.infonce(eye, eye).item() == pytest.approx((math.log(6) - loss) / math.log(6), abs=1e-9)
    assert info.infonce(torch.ones_like(eye), eye).item() == pytest.approx(0, abs=1e-12)
    assert info.infonce(eye, eye.flip(1)).item() == 0  # worse than chance
    three = torch.tensor([[True, True, False, True, False, False]])
    loss = math.log(math.exp(10) + 2) - 10
    assert info.infonce(eye, eye, three).item() == pytest.approx((math.log(3) - loss) / math.log(3), abs=1e-9)
    for n in (0, 1):
        few = torch.zeros(1, 6, dtype=torch.bool)
        few[:, :n] = True
        assert info.infonce(eye, eye, few).item() == 0


def test_tables_hold_every_pair() -> None:
    a, b, _, present = random_heads()
    c = a.flip(0)
    found = info.dependence([a, b, c], [None, present, None], "plugin")
    assert torch.equal(found[:, 0, 1], info.nmi(a, b, "plugin", present))
    assert torch.equal(found[:, 2, 0], info.nmi(a, c))
    assert torch.equal(found[:, 1, 2], info.nmi(b, c, "plugin", present))
    assert torch.equal(found, found.transpose(1, 2))
    features = info.feature_dependence([a, b, c], [b, c], [None, present, None])
    assert torch.equal(features[:, 1, 2], info.infonce(b, c, present))
    assert torch.equal(features[:, 0, 2], info.infonce(a, c))
