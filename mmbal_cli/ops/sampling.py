"""Lists of samples to train on: every seed its own length, padded to whole batches, the same alone and in company.

A list is a choice among K candidates, as many for every seed: chosen [S,K] bool says which are in it, key [S,K] in
which order. Nothing here draws random numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def packed(chosen: Tensor, key: Tensor, size: int, most: int | None = None) -> tuple[Tensor, Tensor]:
    """The chosen candidates by rising `key`, at most `most`: (slot [S,L], valid [S,L]), L a multiple of `size`.

    Candidate 0, not valid, fills up the shorter lists.
    """
    count = chosen.sum(1).clamp_max(chosen.shape[1] if most is None else most)
    length = -(-int(count.max()) // size) * size  # only padding depends on it
    slot = key.double().masked_fill(~chosen, torch.inf).argsort(dim=1)[:, :length]
    slot = torch.cat([slot, slot.new_zeros(len(slot), length - slot.shape[1])], 1)
    valid = torch.arange(length, device=slot.device) < count[:, None]
    return torch.where(valid, slot, 0), valid


def batches(valid: Tensor, size: int) -> Tensor:
    """How many batches [S] hold a valid sample."""
    return (valid.sum(1) + size - 1) // size


def copies(phi: Tensor, has: Tensor) -> Tensor:
    """Copies of each sample in which one modality alone is kept, [S,N,M]: 2 (1 - phi) where phi < 1, halves upwards.

    None for a modality that the sample lacks. Shapley values of `subset_value` give M + 1 at most.
    """
    count = (2 * (1 - phi).clamp_min(0) + 0.5 + 1e-4).floor().long()  # no rounding error may cost a copy
    return torch.where(has, count, 0)


def copied(count: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of N samples with `count` [S,N,M] copies each: (sample, kept, chosen), [S,K] each.

    `kept` is the modality that a copy keeps, -1 for the sample itself. K = N + M N (M + 1) for every seed, the copies
    of one modality after those of the other.
    """
    S, N, M = count.shape
    rank, rows = torch.arange(M + 1, device=count.device), torch.arange(N, device=count.device)
    wanted = rank < count.transpose(1, 2)[..., None]  # [S,M,N,M+1]
    chosen = torch.cat([wanted.new_ones(S, N), wanted.flatten(1)], 1)
    copy = torch.arange(M, device=count.device).repeat_interleave(N * (M + 1))
    kept = torch.cat([torch.full_like(rows, -1), copy])
    sample = torch.cat([rows, rows.repeat_interleave(M + 1).repeat(M)])
    return sample.expand(S, -1), kept.expand(S, -1), chosen


def subset_value(right: Tensor, has: Tensor) -> Tensor:
    """Worth of a set of modalities for each sample: how many of them it has where the prediction is right, else 0.

    right [...] bool, has [...,|A|] bool: which modalities of the set the sample has.
    """
    return torch.where(right, has.sum(-1), 0)


def gaps(phi: Tensor, has: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Weakest modality [S] and its distance to the strongest one [S], by mean phi over `rows` [S,Z] that have it.

    The gap of a modality is 1 - its mean; one that no row has is neither weakest nor strongest.
    """
    where = rows[:, None].expand(-1, phi.shape[2], -1)
    phi, has = phi.transpose(1, 2).gather(2, where), has.transpose(1, 2).gather(2, where)  # [S,M,Z]
    count = has.sum(2)
    gap = 1 - torch.where(has, phi, 0.0).sum(2) / count.clamp_min(1)
    worst, best = gap.masked_fill(count == 0, -torch.inf), gap.masked_fill(count == 0, torch.inf)
    return worst.argmax(1), (worst.amax(1) - best.amin(1)).clamp_min(0)


def extended(weak: Tensor, has: Tensor, added: Tensor, draw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of N samples and, for each seed, `added` [S] draws of samples that have modality `weak` [S].

    `draw` [S,A] in [0,1) picks them with replacement. (sample, kept, chosen) as from `copied`, K = N + A.
    """
    S, N, _ = has.shape
    owned = has.gather(2, weak[:, None, None].expand(-1, N, 1)).squeeze(2)  # [S,N]
    count = owned.sum(1, keepdim=True)
    rank = (draw * count).long().minimum((count - 1).clamp_min(0))
    extra = (~owned).to(torch.uint8).argsort(dim=1, stable=True).gather(1, rank)
    wanted = torch.arange(draw.shape[1], device=draw.device) < added[:, None]
    every = torch.arange(N, device=has.device).expand(S, -1)
    kept = torch.cat([torch.full_like(every, -1), weak[:, None].expand_as(extra)], 1)
    return torch.cat([every, extra], 1), kept, torch.cat([torch.ones_like(owned), wanted & (count > 0)], 1)


def most_uncertain(entropy: Tensor, has: Tensor) -> Tensor:
    """The modality [S,N] of highest entropy [S,N,M] among those that a sample has; the last of equals, -1 of none."""
    M = entropy.shape[-1]
    last = M - 1 - entropy.masked_fill(~has, -torch.inf).flip(-1).argmax(-1)
    return torch.where(has.any(-1), last, -1)
