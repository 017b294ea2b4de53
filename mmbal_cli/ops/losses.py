"""Losses as pure functions: every result is [S], one number for each seed; the batch is dimension 1."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def ce(z: Tensor, y: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [S] of logits z [S,B,C] and labels y [S,B], over present samples only."""
    return masked_mean(cross_entropies(z, y), present)


def cross_entropies(z: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy [S,B] of every sample."""
    return F.cross_entropy(z.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)


def masked_mean(each: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean over the batch [S] of [S,B]; with a mask over its true entries, 0 where there are none."""
    if present is None:
        return each.mean(1)
    return torch.where(present, each, 0.0).sum(1) / present.sum(1).clamp_min(1)


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Which samples [S,B] have two modalities; None when all have."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def having(masks: Iterable[Tensor | None], like: Tensor, dim: int = -1) -> Tensor:
    """Which modalities each sample has, bool, from a mask [S,B] (None = all) for each, stacked as `dim`; like [S,B]."""
    return torch.stack([torch.ones_like(like, dtype=torch.bool) if mask is None else mask for mask in masks], dim)


def softmax_among(score: Tensor, among: Tensor) -> Tensor:
    """Softmax of score [...,M] over those that `among` names; over all where it names none."""
    return score.masked_fill(~among, torch.finfo(score.dtype).min).softmax(-1)


def soft_ce(z: Tensor, target: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean cross-entropy [S] of logits z [S,B,C] and soft labels [S,B,C], over present samples only."""
    return masked_mean(-(target * z.log_softmax(-1)).sum(-1), present)


def kl(p: Tensor, z: Tensor) -> Tensor:
    """KL(p || softmax(z)) [S,B] of probabilities p and logits z [S,B,C]; zeros of p count as 0 log 0 = 0."""
    return (torch.xlogy(p, p) - p * z.log_softmax(-1)).sum(-1)


def entropy(z: Tensor) -> Tensor:
    """Entropy in nats [S,B] of softmax(z)."""
    logp = z.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def true_class_probability(z: Tensor, y: Tensor) -> Tensor:
    """softmax(z)[y], [S,B]."""
    return z.softmax(-1).gather(-1, y[..., None]).squeeze(-1)


def unit(h: Tensor, dim: int = -1, eps: float = 1e-12) -> Tensor:
    """h over max(its 2-norm along `dim`, eps); zero stays zero, with derivatives of every order."""
    return h * h.square().sum(dim, keepdim=True).clamp_min(eps**2).rsqrt()


def contrastive(a: Tensor, b: Tensor, tau: float, present: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE [S] of paired features a, b [S,B,D]: half the row and column cross-entropies.

    Cosine similarity over `tau`; negatives are the other samples of the batch, within one seed only. Samples
    that lack one of the two modalities are neither anchors nor negatives.
    """
    logits = torch.bmm(unit(a), unit(b).transpose(1, 2)) / tau  # [S,B,B]
    if present is not None:
        low = torch.finfo(logits.dtype).min
        pair = present[:, :, None] & present[:, None, :]
        own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill(~(pair | own), low)
    rows = -logits.log_softmax(2).diagonal(dim1=1, dim2=2)  # [S,B]
    columns = -logits.log_softmax(1).diagonal(dim1=1, dim2=2)
    return masked_mean(0.5 * (rows + columns), present)


def reversed_js(a: Tensor, b: Tensor, present: Tensor | None = None) -> Tensor:
    """0.5 [KL(m || p) + KL(m || q)] [S], p and q = softmax of logits a, b [S,B,C], m = (p + q) / 2.

    The Jensen-Shannon divergence has these arguments the other way round; this is what LFM's released code computes.
    All in logarithms, so a probability that underflows to zero costs no NaN, neither here nor in a gradient.
    """
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    high = torch.maximum(p, q).detach()  # logaddexp would round a seed's last elements by its place in the stack
    m = high + (0.5 * ((p - high).exp() + (q - high).exp())).log()
    return masked_mean((m.exp() * (m - 0.5 * (p + q))).sum(-1), present)
