"""Orthogonal weight modification: directions that were used are damped, by recursive least squares.

P [S,D,D] is symmetric (exactly: every update is an outer product of one vector with itself) and starts at I.
"""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.nn.stacked import per_seed


def ridge(i: int, n: int) -> float:
    """The constant a of batch i of n (0-based): 0.1^(1 + i/n), from 0.1 down to about 0.01 in every epoch."""
    return 0.1 ** (1 + i / n)


def damped(P: Tensor, r: Tensor, a: float) -> Tensor:
    """P - k k^T / (a + r k) with k = P r, for directions r [S,D]; eigenvalues stay in [0,1], r = 0 changes nothing."""
    k = (P * r[:, None]).sum(-1)  # [S,D]; not a product with one column
    divisor = a + (r * k).sum(-1)
    return P - k[:, :, None] * k[:, None, :] / per_seed(divisor, P)


def normed(P: Tensor) -> Tensor:
    """P over its Frobenius norm."""
    return P / per_seed(P.flatten(1).square().sum(1).sqrt(), P)
