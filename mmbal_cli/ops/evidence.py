"""Evidential classification: Dirichlet opinions, their combination by Dempster's reduced rule, and the loss.

Evidence e [S,B,C] >= 0 of one view stands for the Dirichlet distribution alpha = e + 1, with belief e / S and
uncertainty C / S at strength S = C + sum e. All in float64: differences of gamma functions of large evidence have
nothing left in float32 (psi and log-gamma of 1e7 keep two digits of the divergence, and training reaches 1e7).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from mmbal_cli.nn.stacked import total
from mmbal_cli.ops.losses import masked_mean

HIGHEST = 60.0  # bound on log(1 + e/C) of combined evidence: e^60 C is far from overflow, also in float32
LARGE = 1e5  # from here on the series of `spread` is exact to rounding


def evidence(z: Tensor, present: Tensor | None = None) -> Tensor:
    """softplus(z) in float64 [S,B,C]; 0, the neutral element, for samples without the view.

    Written out, because torch's softplus rounds the last elements of a tensor differently from its body.
    """
    size = z.double().abs()
    e = 0.5 * (z.double() + size) + torch.log1p(torch.exp(-size))
    return e if present is None else torch.where(present[..., None], e, 0.0)


def combine(views: Iterable[Tensor]) -> Tensor:
    """Evidence of all views together: 1 + e/C = prod_v (1 + e_v/C), which is Dempster's rule in any order.

    The rule b_k = (b1_k b2_k + b1_k u2 + b2_k u1) / (1 - K) gives e = e1 + e2 + e1 e2 / C once S = C / u is put in:
    the conflict K cancels.
    """
    views = list(views)
    C = views[0].shape[-1]
    return C * torch.expm1(total(torch.log1p(e / C) for e in views).clamp_max(HIGHEST))


def uncertainty(e: Tensor) -> Tensor:
    """u = C / (C + sum e), [S,B] in (0,1]."""
    return e.shape[-1] / (e.shape[-1] + e.sum(-1))


def logits(e: Tensor) -> Tensor:
    """log(1 + e): their softmax is the mean of the Dirichlet distribution."""
    return torch.log1p(e)


def spread(x: Tensor) -> Tensor:
    """x + log Gamma(x) - (x - 1) psi(x), by its series for large x, where the three terms cancel."""
    small = x.clamp_max(LARGE)
    direct = small + torch.lgamma(small) - (small - 1) * torch.digamma(small)
    large = x.clamp_min(LARGE)
    series = 0.5 * (large.log() + math.log(2 * math.pi) + 1) - 1 / (3 * large)
    return torch.where(x < LARGE, direct, series)


def divergence_from_uniform(alpha: Tensor) -> Tensor:
    """KL(Dir(alpha) || Dir(1)) [S,B] of alpha [S,B,C] >= 1.

    log Gamma(S) - sum log Gamma(alpha) - log Gamma(C) + sum (alpha - 1) (psi(alpha) - psi(S)), S = sum alpha, with
    the terms regrouped so that those of order alpha, which cancel, never appear.
    """
    C, S = alpha.shape[-1], alpha.sum(-1)
    return spread(S) + (C - 1) * torch.digamma(S) - spread(alpha).sum(-1) - math.lgamma(C)


def evidential(e: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Expected cross-entropy psi(S) - psi(alpha_y), and divergence of the evidence for wrong classes, [S,B] each."""
    own = torch.nn.functional.one_hot(y, e.shape[-1]).to(torch.bool)
    alpha_y = 1 + torch.where(own, e, 0.0).sum(-1)
    fit = torch.digamma(e.shape[-1] + e.sum(-1)) - torch.digamma(alpha_y)
    return fit, divergence_from_uniform(1 + torch.where(own, 0.0, e))


def evidential_loss(e: Tensor, y: Tensor, weight: float, present: Tensor | None = None) -> Tensor:
    """Mean of fit + weight * divergence over the present samples, [S]."""
    fit, wrong = evidential(e, y)
    return masked_mean(fit + weight * wrong, present)
