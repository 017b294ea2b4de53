"""How far each modality is ahead of the others: OGM's ratio (Peng et al. 2022, arXiv 2203.15332)."""

from __future__ import annotations

from torch import Tensor


def discrepancy(s: Tensor) -> Tensor:
    """rho [S,M] of scores s [S,M]: the mean over j != m of s_m / s_j (journal, arXiv 2410.11582, eq. 7)."""
    ratio = s[:, :, None] / s[:, None, :].clamp_min(1e-8)  # [S,M,M]
    return (ratio.sum(2) - ratio.diagonal(dim1=1, dim2=2)) / (s.shape[1] - 1)
