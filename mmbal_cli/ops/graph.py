"""Similarity network fusion (Wang et al., Nature Methods 2014) and the normalised adjacency of a graph convolution.

For modality m with distances d_ij between samples and r_i = mean distance of i to its K nearest others:

    W_ij = exp(-d_ij^2 / (0.5 eps_ij)),  eps_ij = (r_i + r_j + d_ij) / 3
    P: W with rows summing to 1/2 off the diagonal, and 1/2 on it
    S: W between i and its K nearest others, rows summing to 1
    `ROUNDS` times, all m at once: P_m <- S_m (mean of the other P) S_m^T, made to rows as above
    A = mean of the P, and of it and its transpose (rows of different sums make P itself unsymmetric)

W stays a logarithm until its rows are normalised: distances grow with the number of features, and exp would underflow.
With one modality there is nothing to fuse: A is that of P.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmbal_cli.nn.stacked import total

NEIGHBOURS, ROUNDS = 20, 20


def _diagonal(like: Tensor) -> Tensor:
    return torch.eye(len(like), dtype=torch.bool, device=like.device)


def log_affinity(x: Tensor, K: int) -> tuple[Tensor, Tensor]:
    """ln W [N,N] of features x [N,F], and the K nearest others of each sample [N,K]."""
    d = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    near = d.masked_fill(_diagonal(d), torch.inf).topk(K, 1, largest=False)
    r = near.values.mean(1)
    eps = (r[:, None] + r + d) / 3
    return -d.square() / (0.5 * eps).clamp_min(torch.finfo(d.dtype).tiny), near.indices


def half_on_diagonal(P: Tensor) -> Tensor:
    """P [N,N] with rows that sum to 1/2 off the diagonal, and 1/2 on it."""
    own = _diagonal(P)
    off = P.masked_fill(own, 0.0)
    off = off / (2 * off.sum(1, keepdim=True)).clamp_min(torch.finfo(P.dtype).tiny)
    return off.masked_fill_(own, 0.5)


def diffused(Q: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """S Q S^T where row i of S holds weight[i] at index[i] [N,K]."""
    once = F.embedding_bag(index, Q, per_sample_weights=weight, mode="sum")
    return F.embedding_bag(index, once.T.contiguous(), per_sample_weights=weight, mode="sum").T


def fused_affinity(x: Sequence[Tensor], K: int = NEIGHBOURS, rounds: int = ROUNDS) -> Tensor:
    """A [N,N], symmetric, from features [N,F] of each modality; K is at most N - 1."""
    N, M = len(x[0]), len(x)
    if N < 2:
        return torch.ones_like(x[0][:, :1])
    P, S = [], []
    for features in x:
        logW, index = log_affinity(features, min(K, N - 1))
        P.append(half_on_diagonal(logW.masked_fill(_diagonal(logW), -torch.inf).softmax(1)))
        S.append((index, logW.gather(1, index).softmax(1)))
    for _ in range(rounds if M > 1 else 0):
        others = [total(P[k] for k in range(M) if k != m) / (M - 1) for m in range(M)]
        P = [half_on_diagonal(diffused(Q, *near)) for Q, near in zip(others, S, strict=True)]
    A = total(P) / M
    return (A + A.T) / 2


def normalised_adjacency(A: Tensor) -> Tensor:
    """D^-1/2 (A + I) D^-1/2 with D the row sums of A + I; [N,N]."""
    loops = A + torch.eye(len(A), dtype=A.dtype, device=A.device)
    scale = loops.sum(1).rsqrt()
    return scale[:, None] * loops * scale
