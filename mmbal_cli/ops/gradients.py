"""Per-seed arithmetic on gradients of stacked parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import per_seed, total


def scale_gradients(params: Iterable[nn.Parameter], factor: Tensor) -> None:
    """Multiply every gradient by its seed's factor [S], in place."""
    for p in params:
        if p.grad is not None:
            p.grad.mul_(per_seed(factor, p))


def gradient_norm(params: Iterable[nn.Parameter]) -> Tensor | None:
    """2-norm [S] of all gradients together; None when there are none."""
    squares = [p.grad.flatten(1).square().sum(1) for p in params if p.grad is not None]
    return torch.stack(squares, 1).sum(1).sqrt() if squares else None


def clip_where_steep(params: Sequence[nn.Parameter], watched: Iterable[nn.Parameter], bound: float) -> None:
    """Cut each seed's whole gradient to norm `bound` if an entry of the gradient of `watched` is beyond +-`bound`."""
    largest = [p.grad.flatten(1).abs().amax(1) for p in watched if p.grad is not None]
    norm = gradient_norm(params)
    if norm is None or not largest:
        return
    steep = torch.stack(largest, 1).amax(1) > bound
    scale_gradients(params, torch.where(steep, (bound / (norm + 1e-6)).clamp(max=1.0), 1.0))


def deviation(g: Tensor) -> Tensor:
    """Unbiased standard deviation [S] over all elements of each seed; 0 for a single element.

    From sum and sum of squares: a quarter of the time of `std` over a dimension, and gradients are centred
    closely enough that no digits are lost.
    """
    flat = g.flatten(1)
    n = flat.shape[1]
    if n == 1:
        return flat.new_zeros(flat.shape[0])
    mean = flat.mean(1)
    return ((flat.square().sum(1) - n * mean.square()) / (n - 1)).clamp_min(0).sqrt()


def gradients(each: Tensor, params: Sequence[Tensor], create_graph: bool = False) -> list[Tensor]:
    """Gradients of losses [S], one for each parameter (zeros where it has no part); `.grad` stays untouched."""
    ones = torch.ones_like(each)  # seeds share nothing: each keeps its own gradient
    return list(torch.autograd.grad(each, params, ones, True, create_graph, materialize_grads=True))


def inner(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Inner product [S] of two lists of gradients, each list one long vector for every seed."""
    return total((x * y).flatten(1).sum(1) for x, y in zip(a, b, strict=True))


def min_norm_pair(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The w in [0,1], [S], for which w a + (1 - w) b is shortest; 0.5 where a = b."""
    apart = [y - x for x, y in zip(a, b, strict=True)]
    square = inner(apart, apart)
    w = (inner(b, apart) / torch.where(square > 0, square, 1.0)).clamp(0, 1)
    return torch.where(square > 0, w, 0.5)


def innocent(
    a: Sequence[Tensor], b: Sequence[Tensor], whole: bool = False, most: float = 10.0
) -> tuple[list[Tensor], Tensor]:
    """Sum of two gradients that serves both (MMPareto), and the weight [S] of the first; 0.5 is the plain sum.

    Where the inner product is negative, twice their shortest convex combination, stretched (at most `most`-fold) to the
    length of the plain sum where that is longer: tensor by tensor, or all tensors as one vector (`whole`).
    """
    w = torch.where(inner(a, b) < 0, min_norm_pair(a, b).clamp(0.001, 0.999), 0.5)
    plain = [x + y for x, y in zip(a, b, strict=True)]
    found = [2 * per_seed(w, x) * x + 2 * (1 - per_seed(w, y)) * y for x, y in zip(a, b, strict=True)]
    groups = [list(range(len(found)))] if whole else [[i] for i in range(len(found))]
    for group in groups:
        long, short = (inner(part, part).sqrt() for part in ([v[i] for i in group] for v in (plain, found)))
        factor = torch.where(short > 0, long / torch.where(short > 0, short, 1.0), 1.0).clamp(1, most)
        for i in group:
            found[i] = per_seed(factor, found[i]) * found[i]
    return found, w


def unrolled_slope(
    theta: dict[str, Tensor],
    losses: tuple[Tensor, Tensor],
    outer: Callable[[dict[str, Tensor]], Tensor],
    alpha: Tensor,
    eta: float,
    rule: str = "relative",
) -> tuple[Tensor, Tensor]:
    """d outer(theta') / d alpha after one gradient step on (1 - alpha) first + alpha second loss; and in [-1,1].

    theta' = theta - eta [(1 - alpha) g_1 + alpha g_2], so the slope is eta <g, g_1 - g_2> with g the gradient of
    `outer` at theta'. Three gradients, nothing of second order. All [S]. The second number has the slope's sign:
    `relative` is <g, g_1 - g_2> / (|<g, g_1>| + |<g, g_2>|), `cosine` that of g and g_1 - g_2; 0 where a gradient is.
    """
    params = list(theta.values())
    first, second = (gradients(each, params) for each in losses)
    moved = {}
    for (name, p), x, y in zip(theta.items(), first, second, strict=True):
        weight = per_seed(alpha, p)
        moved[name] = (p.detach() - eta * ((1 - weight) * x + weight * y)).requires_grad_()
    g = gradients(outer(moved), list(moved.values()))
    gains = inner(g, first), inner(g, second)
    product = gains[0] - gains[1]
    if rule == "cosine":
        apart = [x - y for x, y in zip(first, second, strict=True)]
        size = inner(g, g).sqrt() * inner(apart, apart).sqrt() + 1e-12
    else:
        size = gains[0].abs() + gains[1].abs()
    return eta * product, product / torch.where(size > 0, size, 1.0)
