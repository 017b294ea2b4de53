"""Normalisation with a leading S: batch norm with running statistics for each seed, and layer norm.

Scale and offset are called `weight` and `bias`, [S,1,D].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOMENTUM, EPS = 0.1, 1e-5  # torch's defaults


class BatchNorm(nn.Module):
    """Normalises over the samples of a batch (dimension 1) that are present; by running statistics in evaluation.

    A batch of fewer than two present samples has no variance: it is normalised by the running statistics and does not
    change them.
    """

    mean: Tensor
    var: Tensor

    def __init__(self, S: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(S, 1, width, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(S, 1, width, dtype=dtype))
        self.register_buffer("mean", torch.zeros(S, 1, width, dtype=dtype))
        self.register_buffer("var", torch.ones(S, 1, width, dtype=dtype))

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """x [S,B,D], present [S,B] bool or None (all) -> [S,B,D]."""
        mean, var = self.statistics(x, present) if self.training else (self.mean, self.var)
        return (x - mean) * torch.rsqrt(var + EPS) * self.weight + self.bias

    def statistics(self, x: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance [S,1,D] of this batch; the running ones (unbiased variance) move towards them."""
        here = torch.ones_like(x[..., :1]) if present is None else present[..., None].to(x.dtype)  # [S,B,1]
        n = here.sum(1, keepdim=True)  # [S,1,1]
        mean = (x * here).sum(1, keepdim=True) / n.clamp_min(1)
        var = ((x - mean).square() * here).sum(1, keepdim=True) / n.clamp_min(1)
        enough = n >= 2
        with torch.no_grad():
            unbiased = var * n / (n - 1).clamp_min(1)
            old_mean, old_var = self.mean.clone(), self.var.clone()
            self.mean.copy_(torch.where(enough, old_mean + MOMENTUM * (mean - old_mean), old_mean))
            self.var.copy_(torch.where(enough, old_var + MOMENTUM * (unbiased - old_var), old_var))
        return torch.where(enough, mean, old_mean), torch.where(enough, var, old_var)


class LayerNorm(nn.Module):
    """Normalises the last dimension; [S,N,D] -> [S,N,D]."""

    def __init__(self, S: int, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(S, 1, width, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(S, 1, width, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[S,N,D] -> [S,N,D]."""
        return F.layer_norm(x, x.shape[-1:], eps=EPS) * self.weight + self.bias
