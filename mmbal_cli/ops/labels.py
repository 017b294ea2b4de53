"""Soft labels of one modality built from another's confusions: targets, difficulty, temperature, strength, matrix.

Shapes: labels y [S,B], one-hot `hot` [S,B,C], matrix R [S,C,C] whose row c is the target profile of class c,
difficulty d, strength s and temperature tau [S,M]. `seen` [S,M] is 1 for a modality whose difficulty was measured,
else 0: such a modality is nobody's easiest one while another was measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbal_cli.nn.stacked import per_seed, total
from mmbal_cli.ops.losses import true_class_probability

DIFFICULTIES = ("residual", "conf", "error", "loss")
MATRICES = ("class", "sample", "uniform", "offdiag")
ROUTES = ("branch", "strict", "none")
KEEP = 0.9  # of the difficulty's moving average
FLOOR = 1e-6  # least difficulty of a teacher in the temperature's ratio
EMPTY = 1e-12  # a row with less mass off the diagonal has no profile of other classes


def one_hot(y: Tensor, n: int, dtype: torch.dtype) -> Tensor:
    """[...] integers -> [...,n] ones and zeros."""
    return F.one_hot(y, n).to(dtype)


def reshaped(hot: Tensor, rows: Tensor, s: Tensor) -> Tensor:
    """(1 - s) one-hot + s rows, [S,B,C]; exactly one-hot where s [S] is 0 or the row is one-hot."""
    return hot + per_seed(s, hot) * (rows - hot)


def hardness(z: Tensor, y: Tensor, target: Tensor, kind: str) -> Tensor:
    """Difficulty of every sample [S,B]: distance to its target, 1 - p_true, a wrong answer, or CE / ln C."""
    if kind == "residual":
        return 0.5 * (z.softmax(-1) - target).abs().sum(-1)
    if kind == "conf":
        return 1 - true_class_probability(z, y)
    if kind == "error":
        return (z.argmax(-1) != y).to(z.dtype)
    loss = -z.log_softmax(-1).gather(-1, y[..., None]).squeeze(-1)
    return loss / math.log(max(z.shape[-1], 2))


def running(old: Tensor, new: Tensor, seen: Tensor, measured: Tensor) -> Tensor:
    """Moving average; the first measure replaces the start, and what was not measured stays."""
    return torch.where(measured > 0, torch.where(seen > 0, KEEP * old + (1 - KEEP) * new, new), old)


def _known(d: Tensor, seen: Tensor) -> Tensor:
    return d.masked_fill(seen == 0, torch.finfo(d.dtype).max)


def teachers(d: Tensor, seen: Tensor) -> Tensor:
    """Index [S,M] of the easiest other modality of each; the first on ties."""
    M = d.shape[1]
    itself = torch.eye(M, dtype=torch.bool, device=d.device)
    return _known(d, seen)[:, None].expand(-1, M, M).masked_fill(itself, torch.inf).argmin(-1)


def temperatures(d: Tensor, seen: Tensor, mode: str, highest: float, fixed: float) -> Tensor:
    """tau [S,M]: `fixed`, or (`gap`) how many times harder than its easiest other one it is, from 1 to `highest`."""
    if mode == "fixed":
        return torch.full_like(d, fixed)
    easiest = _known(d, seen).gather(1, teachers(d, seen))
    return (d / easiest.clamp_min(FLOOR)).clamp(1, highest)


def weights(d: Tensor, seen: Tensor, i: int, rule: str) -> list[Tensor | None]:
    """Weight [S] of the fused logits and of each modality as teacher of modality i; None: never its teacher."""
    none = [None] * d.shape[1]
    if rule == "fused":
        return [torch.ones_like(d[:, i]), *none]
    chosen = one_hot(teachers(d, seen)[:, i], d.shape[1], d.dtype) if rule == "best_other" else torch.ones_like(d)
    return [None, *(None if k == i else chosen[:, k] for k in range(d.shape[1]))]


def strengths(d: Tensor, seen: Tensor, rule: str, target: str, alpha: float, s_base: float, kappa: float) -> Tensor:
    """s [S,M], at most alpha: `matched` makes all residuals equal to the least one, `fixed` is alpha or s_base."""
    known = _known(d, seen)
    least = known.amin(1, keepdim=True)
    first = one_hot(known.argmin(1), d.shape[1], torch.bool)
    harder = d > least
    gap = torch.where(harder, d - least, 0.0) / torch.where(harder, d + kappa, 1.0)
    s = s_base + gap if rule == "matched" else torch.full_like(d, alpha).masked_fill(first, s_base)
    return (s.masked_fill(first, 0.0) if target == "weak" else s).clamp(0, alpha)


def mixture(
    z: Sequence[Tensor], weight: Sequence[Tensor | None], tau: Tensor, present: Sequence[Tensor | None]
) -> tuple[Tensor, Tensor]:
    """Weighted mean [S,B,C] of the teachers' softmax(z_k / tau), and which samples have a teacher [S,B].

    A sample counts only the teachers that it has; without any, its mean is 0.
    """
    shares, answers = [], []
    for value, w, mask in zip(z, weight, present, strict=True):
        if w is not None:
            own = w[:, None].expand(value.shape[:2])
            shares.append(own if mask is None else own * mask.to(value.dtype))
            answers.append((value / per_seed(tau, value)).softmax(-1))
    mass = total(shares)
    mean = total(share[..., None] * answer for share, answer in zip(shares, answers, strict=True))
    return mean / torch.where(mass > 0, mass, 1.0)[..., None], mass > 0


def update_rows(R: Tensor, profile: Tensor, hot: Tensor, valid: Tensor, mu: float) -> Tensor:
    """R with the row of every class that occurs moved towards the mean profile [S,B,C] of its valid samples."""
    chosen = hot * valid[..., None]
    n = chosen.sum(1)[..., None]
    mean = torch.bmm(chosen.transpose(1, 2), profile) / n.clamp_min(1)
    return torch.where(n > 0, mu * R + (1 - mu) * mean, R)


def off_diagonal(R: Tensor) -> Tensor:
    """R without its diagonal, rows summing to 1 again; a row that has nothing else stays one-hot."""
    own = torch.eye(R.shape[-1], dtype=torch.bool, device=R.device)
    others = R.masked_fill(own, 0.0)
    mass = others.sum(-1, keepdim=True)
    return torch.where(mass > EMPTY, others / mass.clamp_min(EMPTY), own.to(R.dtype))


def rows(kind: str, hot: Tensor, R: Tensor, profile: Tensor, valid: Tensor) -> Tensor:
    """Profile of each sample's label [S,B,C]: its class's row, or what stands for it by the kind of matrix."""
    if kind == "uniform":
        return torch.full_like(hot, 1 / hot.shape[-1])
    if kind == "sample":
        return torch.where(valid[..., None], profile, hot)
    return torch.bmm(hot, off_diagonal(R) if kind == "offdiag" else R)
