"""How fast modalities take up information, and how far the leading one is held back for it (InfoReg)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.nn.stacked import total


def growth(traces: Tensor) -> Tensor:
    """k [S,M] of the last n + 1 traces [S,M,n+1], oldest first: (A - B) / A, A and B the means of the last and first n.

    What A and B have in common cancels. Where A is zero nothing is known to grow: 0.
    """
    recent = total(traces[..., i] for i in range(1, traces.shape[-1]))
    return torch.where(recent > 0, (traces[..., -1] - traces[..., 0]) / torch.where(recent > 0, recent, 1.0), 0.0)


def lead(scores: Tensor, tau: float) -> Tensor:
    """exp(tanh(tau (s_m - the best other))) where modality m has the highest score alone, else 0; [S,M]."""
    first, second = scores.topk(2, 1).values.unbind(1)
    ahead = torch.exp(torch.tanh(tau * (first - second)))[:, None]
    return torch.where((scores == first[:, None]) & (first > second)[:, None], ahead, 0.0)


def advantage(losses: Tensor) -> Tensor:
    """Mean loss of the others less the own loss where modality m has the lowest loss alone, else 0; [S,M]."""
    M = losses.shape[1]
    least, second = losses.topk(2, 1, largest=False).values.unbind(1)
    others = (losses.sum(1) - least) / (M - 1)
    alone = (losses == least[:, None]) & (least < second)[:, None]
    return torch.where(alone, (others - least)[:, None], 0.0)
