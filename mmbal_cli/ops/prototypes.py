"""Class prototypes of each modality: cosine classification, moving means, and alignment to a richer modality.

Shapes: h [S,M,B,D], prototypes P [S,M,C,D] of unit norm, known [S,M,C] (which are set), present [S,M,B], y [S,B].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmbal_cli.ops.losses import entropy, kl

EPS = 1e-8  # least norm that has a direction


def similarity(h: Tensor, P: Tensor, tau: float) -> Tensor:
    """Cosine of features and prototypes over tau, [S,M,B,C]; 0 for a feature of zeros."""
    u = F.normalize(h, dim=-1, eps=EPS)
    return torch.bmm(u.flatten(0, 1), P.flatten(0, 1).transpose(1, 2)).view(*h.shape[:3], -1) / tau


def only(logits: Tensor, known: Tensor) -> Tensor:
    """Logits [S,M,B,C] without the classes that are not known [S,M,C]."""
    return logits.masked_fill(~known[:, :, None], torch.finfo(logits.dtype).min)


def of_class(known: Tensor, y: Tensor) -> Tensor:
    """Whether each sample's own class is known, [S,M,B]."""
    return known.gather(2, y[:, None].expand(-1, known.shape[1], -1))


def true_class(x: Tensor, y: Tensor) -> Tensor:
    """x[..., y] [S,M,B] of x [S,M,B,C]."""
    return x.gather(3, y[:, None, :, None].expand(*x.shape[:3], 1)).squeeze(3)


def average(each: Tensor, use: Tensor, among: Tensor | None = None) -> Tensor:
    """Sum over used samples of [S,M,B], divided by how many are used (or are `among`): [S,M], 0 where none."""
    n = (use if among is None else among).sum(-1).clamp_min(1)
    return torch.where(use, each, 0.0).sum(-1) / n


def prototype_loss(logits: Tensor, y: Tensor, known: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean -log q_y and mean q_y, [S,M] each, over present samples whose class is known."""
    each = -true_class(only(logits, known).log_softmax(-1), y)
    use = present & of_class(known, y)
    return average(each, use), average(torch.exp(-each.detach()), use)


def pick(x: Tensor, anchor: Tensor) -> Tensor:
    """x [S,M,...] at each seed's modality `anchor` [S], as [S,1,...]."""
    return torch.take_along_dim(x, anchor.view(-1, *[1] * (x.dim() - 1)), 1)


def align(
    logits: Tensor, y: Tensor, known: Tensor, present: Tensor, anchor: Tensor, delta: Tensor,
    kind: str = "kl", flag: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Loss and share of samples that trigger, [S,M] each: pull every modality to the anchor where it lags.

    A sample triggers when the anchor's q_y is ahead by more than delta [S,M]; with `flag` [S,M] all samples of a
    flagged modality do. `kl`: KL(q_anchor || q); `hinge`: q_y's lag beyond delta. No gradient reaches the anchor, and
    the divisor is the number of samples with both modalities. Softmaxes are over the classes that both know.
    """
    common = known & pick(known, anchor)
    p = only(pick(logits.detach(), anchor).expand_as(logits), common).softmax(-1)
    z = only(logits, common)
    lag = true_class(p, y) - true_class(z.softmax(-1), y)  # [S,M,B]
    both = present & pick(present, anchor)
    other = torch.arange(known.shape[1], device=y.device) != anchor[:, None]  # [S,M]
    behind = lag.detach() > delta[..., None] if flag is None else flag[..., None]
    hit = behind & both & of_class(common, y) & other[..., None]
    divergence, excess = kl(p.flatten(0, 1), z.flatten(0, 1)).view_as(lag), (lag - delta[..., None]).clamp_min(0)
    each = divergence if kind == "kl" else excess
    return average(each, hit, both), average(torch.ones_like(each), hit, both)


def moved(P: Tensor, known: Tensor, h: Tensor, y: Tensor, present: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Prototypes and known flags after a batch: unit(momentum P + (1 - momentum) v), v = mean unit feature of a class.

    A class that is not known takes unit(v). One without a present sample, or whose new mean has no direction, stays.
    """
    u = F.normalize(h, dim=-1, eps=EPS).flatten(0, 1)
    own = F.one_hot(y, P.shape[2]).to(h.dtype)[:, None] * present[..., None]  # [S,M,B,C]
    count = own.sum(2)[..., None]  # [S,M,C,1]
    v = torch.bmm(own.flatten(0, 1).transpose(1, 2), u).view_as(P) / count.clamp_min(1)
    new = torch.where(known[..., None], momentum * P + (1 - momentum) * v, v)
    size = new.norm(dim=-1, keepdim=True)
    seen = (count > 0) & (size > EPS)
    return torch.where(seen, new / size.clamp_min(EPS), P), known | seen[..., 0]


def class_sums(h: Tensor, y: Tensor, present: Tensor, C: int) -> tuple[Tensor, Tensor]:
    """Sum of the features of each class [S,M,C,D] and how many they are [S,M,C], over present samples."""
    own = F.one_hot(y, C).to(h.dtype)[:, None] * present[..., None]  # [S,M,B,C]
    sums = torch.bmm(own.flatten(0, 1).transpose(1, 2), h.flatten(0, 1))
    return sums.view(*h.shape[:2], C, -1), own.sum(2)


def carried(P: Tensor, known: Tensor, sums: Tensor, count: Tensor, momentum: float) -> tuple[Tensor, Tensor]:
    """Prototypes and their flags [S,M,C] (1 = known) after the class sums of an epoch.

    momentum P + (1 - momentum) mean; the mean alone for a class that was not known; no change without a sample.
    """
    mean = sums / count.clamp_min(1)[..., None]
    new = torch.where(known[..., None] > 0, momentum * P + (1 - momentum) * mean, mean)
    return torch.where(count[..., None] > 0, new, P), torch.maximum(known, (count > 0).to(known))


def distance(h: Tensor, P: Tensor) -> Tensor:
    """Euclidean distance of features and prototypes, [S,M,B,C]; where they coincide, its gradient is 0."""
    return torch.cdist(h, P, compute_mode="donot_use_mm_for_euclid_dist")  # the product form cancels digits


def nearest(
    h: Tensor, P: Tensor, known: Tensor, y: Tensor, present: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """By the nearest prototype: mean -log q_y, mean q_y, mean entropy, and whether any sample counts; [S,M] each."""
    logits = -distance(h, P) / temperature
    losses, score = prototype_loss(logits, y, known, present)
    return losses, score, average(entropy(only(logits, known)), present), (present & of_class(known, y)).any(-1)


def lag(score: Tensor, some: Tensor, hard: bool = False) -> Tensor:
    """How far behind the best each score [S,M] is (PMR): max / score - 1 within [0,1]; `hard`: 1 for all but the best.

    Modalities without a sample to score (`some` [S,M] false) are not compared: 0.
    """
    best = torch.where(some, score, 0.0).amax(1, keepdim=True)
    beta = (best / score.clamp_min(1e-8) - 1).clamp(0, 1)
    return torch.where(some, (score < best).to(beta) if hard else beta, 0.0)


class Prototypes(nn.Module):
    """Prototypes of every modality with the mean q_y of each, and which modalities that mean flags."""

    P: Tensor  # [S,M,C,D]
    known: Tensor  # [S,M,C]
    mean: Tensor  # [S,M] moving mean of q_y, 0 = no sample yet
    flag: Tensor  # [S,M]

    def __init__(self, S: int, M: int, C: int, D: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("P", torch.zeros(S, M, C, D, dtype=dtype))
        self.register_buffer("known", torch.zeros(S, M, C, dtype=torch.bool))
        self.register_buffer("mean", torch.zeros(S, M, dtype=dtype))
        self.register_buffer("flag", torch.zeros(S, M, dtype=torch.bool))

    @torch.no_grad()
    def follow(self, h: Tensor, y: Tensor, present: Tensor, q: Tensor, momentum: float) -> None:
        """Carry prototypes on with a batch's features, and the mean with its q_y [S,M] (0 = none measured)."""
        P, known = moved(self.P, self.known, h, y, present, momentum)
        self.P.copy_(P)
        self.known.copy_(known)
        mean = torch.where(self.mean > 0, momentum * self.mean + (1 - momentum) * q, q)
        self.mean.copy_(torch.where(q > 0, mean, self.mean))

    @torch.no_grad()
    def compare(self, beta: Tensor, anchor: Tensor) -> None:
        """Flag modalities whose mean is a smaller part of the anchor's than their budget is of its budget."""
        self.flag.copy_(self.mean * pick(beta, anchor) < beta * pick(self.mean, anchor))
