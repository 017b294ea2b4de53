"""How far the modalities of one sample disagree: pure functions, [S] each, the batch is dimension 1."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.ops.losses import masked_mean


def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """Which samples [S,B] have two modalities; None when all have."""
    if a is None or b is None:
        return b if a is None else a
    return a & b


def reversed_js(a: Tensor, b: Tensor, present: Tensor | None = None) -> Tensor:
    """0.5 [KL(m || p) + KL(m || q)] [S], p and q = softmax of logits a, b [S,B,C], m = (p + q) / 2.

    The Jensen-Shannon divergence has these arguments the other way round; this is what LFM's released code computes.
    All in logarithms, so a probability that underflows to zero costs no NaN, neither here nor in a gradient.
    """
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    high = torch.maximum(p, q).detach()  # logaddexp would round a seed's last elements by its place in the stack
    m = high + (0.5 * ((p - high).exp() + (q - high).exp())).log()
    return masked_mean((m.exp() * (m - 0.5 * (p + q))).sum(-1), present)
