"""Dependence between predictions, and macro-F1: everything for each seed apart, on a whole split [S,N,C].

Mutual information in nats, 0 log 0 = 0, from a joint table P [S,C,C] of two heads:

    I = sum_ab P_ab ln(P_ab / (P_a. P_.b)),   NMI = I / sqrt(H(P_a.) H(P_.b)), 0 where an entropy is 0

`plugin` counts predicted classes; `plugin_mm` adds (K_a + K_b - K_ab - 1) / 2N to I (Miller-Madow; K = cells that are
not empty), never below 0; `soft` averages the products of probabilities; `infonce` bounds the information between
features by ln N minus their contrastive loss, and ln N stands for the entropies. A pair counts only samples with both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbal_cli.ops.losses import both, contrastive

CONSTANT = 1e-6  # nats: below this an entropy is rounding; one sample in a million has more
INFONCE_TEMPERATURE, INFONCE_SAMPLES = 0.1, 256


def decided(z: Tensor) -> Tensor:
    """One-hot predictions [S,N,C] of logits z [S,N,C]."""
    return F.one_hot(z.argmax(-1), z.shape[-1]).to(z.dtype)


def counts(a: Tensor, b: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum over the samples of the outer products of a [S,N,A] and b [S,N,B], and the number of samples [S]."""
    n = a.new_full((a.shape[0],), a.shape[1]) if present is None else present.sum(1).to(a.dtype)
    if present is not None:
        a = torch.where(present[..., None], a, 0.0)
    return torch.bmm(a.transpose(1, 2), b), n


def _margins(P: Tensor) -> tuple[Tensor, Tensor]:
    return P.sum(-1), P.mT.contiguous().sum(-1)  # contiguous: sums over rows would round by the number of seeds


def _entropy(P: Tensor) -> Tensor:
    return -torch.xlogy(P, P).sum(-1)


def mutual_information(P: Tensor) -> Tensor:
    """I [S] in nats of joint tables P [S,A,B]."""
    rows, columns = _margins(P)
    each = torch.xlogy(P, P) - torch.xlogy(P, rows[..., None]) - torch.xlogy(P, columns[..., None, :])
    return each.flatten(1).sum(1).clamp_min(0)


def miller_madow(P: Tensor, n: Tensor) -> Tensor:
    """I [S] of tables P [S,A,B] counted from n [S] samples, corrected for their number, at least 0."""
    cells = [(table > 0).flatten(1).sum(1) for table in (*_margins(P), P)]
    return (mutual_information(P) + (cells[0] + cells[1] - cells[2] - 1) / (2 * n.clamp_min(1))).clamp_min(0)


def normalised(information: Tensor, P: Tensor) -> Tensor:
    """Information [S] by the geometric mean of the entropies of P's margins, in [0,1]; 0 where one is constant."""
    a, b = (_entropy(margin) for margin in _margins(P))
    varied = (a > CONSTANT) & (b > CONSTANT)
    return torch.where(varied, information / torch.where(varied, a * b, 1.0).sqrt(), 0.0).clamp(0, 1)


def nmi(a: Tensor, b: Tensor, kind: str = "plugin", present: Tensor | None = None) -> Tensor:
    """Normalised mutual information [S] of the predictions of logits a, b [S,N,C]."""
    p, q = (a.softmax(-1), b.softmax(-1)) if kind == "soft" else (decided(a), decided(b))
    table, n = counts(p, q, present)
    P = table / n.clamp_min(1)[:, None, None]
    return normalised(miller_madow(P, n) if kind == "plugin_mm" else mutual_information(P), P)


def infonce(a: Tensor, b: Tensor, present: Tensor | None = None) -> Tensor:
    """(ln n - contrastive loss) / ln n in [0,1] of paired features a, b [S,n,D]: the share of the bound, [S]."""
    n = a.new_full((a.shape[0],), a.shape[1]) if present is None else present.sum(1).to(a.dtype)
    bound = n.clamp_min(1).log()
    found = bound - contrastive(a, b, INFONCE_TEMPERATURE, present)
    return torch.where(bound > 0, found / torch.where(bound > 0, bound, math.inf), 0.0).clamp(0, 1)


def pairwise(n: int, measure: Callable[[int, int], Tensor]) -> Tensor:
    """Symmetric table [S,n,n] of a measure [S] of each pair j < k; zeros on the diagonal."""
    found = {(j, k): measure(j, k) for j in range(n) for k in range(j + 1, n)}
    zero = torch.zeros_like(next(iter(found.values())))
    rows = [[found.get((min(j, k), max(j, k)), zero) for k in range(n)] for j in range(n)]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def dependence(z: Sequence[Tensor], present: Sequence[Tensor | None], kind: str) -> Tensor:
    """NMI [S,n,n] between the predictions of n >= 2 heads."""
    return pairwise(len(z), lambda j, k: nmi(z[j], z[k], kind, both(present[j], present[k])))


def feature_dependence(z: Sequence[Tensor], h: Sequence[Tensor], present: Sequence[Tensor | None]) -> Tensor:
    """InfoNCE share [S,M+1,M+1] between M features h; head 0 of z [M+1] has none, so its logits meet the others'."""

    def measure(j: int, k: int) -> Tensor:
        a, b = (z[0], z[k]) if j == 0 else (h[j - 1], h[k - 1])
        return infonce(a, b, both(present[j], present[k]))

    return pairwise(len(z), measure)


def macro_f1(z: Tensor, y: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over all C classes of 2 TP / (2 TP + FP + FN), [S]; a class nobody has or predicts scores 0."""
    table, _ = counts(decided(z), F.one_hot(y, z.shape[-1]).to(z.dtype), present)
    predicted, true = _margins(table)
    return (2 * table.diagonal(dim1=1, dim2=2).contiguous() / (predicted + true).clamp_min(1)).mean(-1)
