"""Boosting across and within modalities: losses of one learner given what the others already say; whose turn it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbal_cli.ops.losses import cross_entropies, true_class_probability


def turn(epoch: int, epochs: int, boost: float, rectify: float) -> tuple[int, bool, bool]:
    """Stage (from 0), whether it is still boosting (else rectifying), and whether that part begins in this epoch.

    Both parts are given as shares of the run and last at least one epoch; what is left over at the end of a run is
    added to the last rectification, so that no run ends while boosting.
    """
    first = min(max(1, round(boost * epochs)), epochs - 1)
    second = min(max(1, round(rectify * epochs)), epochs - first)
    stage = min(epoch // (first + second), epochs // (first + second) - 1)
    within = epoch - stage * (first + second)
    return stage, within < first, within in (0, first)


def residual_ce(z: Tensor, y: Tensor, others: Tensor | None, w1: float, w2: float, full: bool = False) -> Tensor:
    """Cross-entropy [S,B] of logits z [S,B,C] against w1 onehot(y) - w2 Q, with Q what the others already say.

    Q is softmax(others), of which only the true class is kept unless `full`; then this is (w1 - w2 Q_y) CE(z, y). The
    one-hot label stands for Q where there are no others. No gradient reaches `others`.
    """
    own = F.one_hot(y, z.shape[-1]).to(z.dtype)
    if others is None:
        Q = own
    else:
        Q = others.detach().softmax(-1)
        Q = Q if full else Q * own
    return -((w1 * own - w2 * Q) * z.log_softmax(-1)).sum(-1)


def drift(z: Tensor, reference: Tensor) -> Tensor:
    """Mean squared difference [S,B] of the probabilities; no gradient reaches `reference`."""
    return (z.softmax(-1) - reference.detach().softmax(-1)).square().mean(-1)


def sustained(earlier: Tensor, newest: Tensor, y: Tensor, lam: float) -> tuple[Tensor, Tensor]:
    """What several classifiers have to fit beside their sum: CE(earlier, y) and (1 - lam q) CE(newest, y), [S,B] each.

    q is the probability that the earlier ones together give the true class, without gradient.
    """
    q = true_class_probability(earlier.detach(), y)
    return cross_entropies(earlier, y), (1 - lam * q) * cross_entropies(newest, y)


def lagging(score: Tensor, count: Tensor, zone: float) -> Tensor:
    """Which modality [S,M] (one, or none) has the least mean score, where the largest exceeds it by more than `zone`.

    `score` are sums and `count` numbers of samples, [S,M]. A modality without samples takes no part. Of equals
    the first.
    """
    mean = score / count.clamp_min(1)
    low = torch.where(count > 0, mean, torch.inf)
    high = torch.where(count > 0, mean, -torch.inf)
    due = high.amax(1) > (1 + zone) * low.amin(1)
    return F.one_hot(low.argmin(1), score.shape[1]).bool() & due[:, None]
