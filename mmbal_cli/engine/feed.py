"""From features in memory to batches [S,B,...]: own shuffle for each seed in training, plain order otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Method, Shape
from mmbal_cli.ops.losses import masked_mean
from mmbal_cli.seeds import SeedStreams

EVAL_ROWS = 1024


class Feed:
    """A feature set on one device in the training precision."""

    def __init__(self, features: FeatureSet, device: torch.device, dtype: torch.dtype) -> None:
        self.features, self.device = features, device
        self.x = {m: x.to(device, dtype) for m, x in features.x.items()}
        self.mask = {m: None if mask is None else mask.to(device) for m, mask in features.mask.items()}
        self.y = features.y.to(device)
        self.rows = {split: rows.to(device) for split, rows in features.rows.items()}

    @property
    def shape(self) -> Shape:
        """What a method may know of the data."""
        return Shape(self.features.shapes, len(self.features.classes), len(self.rows["train"]))

    def epoch(self, rng: SeedStreams, size: int) -> Iterator[Batch]:
        """One pass over the training split: every sample once for each seed, the last batch may be short."""
        order = rng.permutation("shuffle", len(self.rows["train"])).to(self.device)  # [S,N]
        chosen = self.rows["train"][order]
        labels = self.y[chosen]
        for idx, rows, y in zip(order.split(size, 1), chosen.split(size, 1), labels.split(size, 1), strict=True):
            flat = rows.flatten()
            x = {m: value.index_select(0, flat).view(*rows.shape, *value.shape[1:]) for m, value in self.x.items()}
            mask = {m: None if value is None else value[rows] for m, value in self.mask.items()}
            yield Batch(x, y, idx, mask)

    def split(self, split: str, S: int) -> Iterator[Batch]:
        """A whole split in order, the same rows for every seed."""
        position = 0
        for rows in self.rows[split].split(EVAL_ROWS):
            n = len(rows)
            idx = torch.arange(position, position + n, device=self.device).expand(S, n)
            x = {m: value[rows].expand(S, n, *value.shape[1:]) for m, value in self.x.items()}
            mask = {
                m: None if value is None else value[rows].expand(S, n, *value.shape[1:])
                for m, value in self.mask.items()
            }
            yield Batch(x, self.y[rows].expand(S, n), idx, mask)
            position += n


class SplitPeek:
    """What an epoch hook may look at: training and validation, never test."""

    def __init__(self, method: Method, feed: Feed) -> None:
        self._method, self._feed = method, feed

    def batches(self, split: Literal["train", "val"]) -> Iterator[Batch]:
        """The split in order, in evaluation batches."""
        if split not in ("train", "val"):
            raise UsageError(f"A method asked for the '{split}' split.", "The test set is sealed: train or val only.")
        return self._feed.split(split, self._method.S)

    def losses(self, split: Literal["train", "val"]) -> dict[str, Tensor]:
        """Mean cross-entropy [S] of `fused` and each modality."""
        return {k[4:] or "fused": v for k, v in scores(self._method, self.batches(split)).items() if k[:3] == "nll"}

    def accuracy(self, split: Literal["train", "val"]) -> dict[str, Tensor]:
        """Accuracy [S] of `fused` and each modality."""
        found = scores(self._method, self.batches(split)).items()
        return {k[9:] or "fused": v for k, v in found if k[:8] == "accuracy"}


@torch.no_grad()
def scores(method: Method, batches: Iterator[Batch]) -> dict[str, Tensor]:
    """`accuracy`, `nll` [S] of the prediction, `accuracy/m`, `nll/m` of each modality on samples that have it."""
    totals: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def add(suffix: str, correct: Tensor, loss: Tensor, present: Tensor | None) -> None:
        n = correct.new_full((method.S,), correct.shape[1]) if present is None else present.sum(1).to(correct.dtype)
        for name, each in (("accuracy", correct), ("nll", loss)):
            totals[name + suffix] = totals.get(name + suffix, 0) + masked_mean(each, present) * n
            counts[name + suffix] = counts.get(name + suffix, 0) + n

    for batch in batches:
        out = method(batch)
        probability = method.predict(out)
        true = probability.gather(-1, batch.y[..., None]).squeeze(-1)
        tiny = torch.finfo(true.dtype).tiny
        hit = (probability.argmax(-1) == batch.y).to(true.dtype)
        add("", hit, -true.clamp_min(tiny).log(), None)
        for m in method.mods:
            right = (out.z[m].argmax(-1) == batch.y).to(true.dtype)
            loss = -out.z[m].log_softmax(-1).gather(-1, batch.y[..., None]).squeeze(-1)
            add(f"/{m}", right, loss, batch.present(m))
    return {name: total / counts[name].clamp_min(1) for name, total in totals.items()}


@torch.no_grad()
def predictions(method: Method, feed: Feed, split: str) -> dict[str, Tensor]:
    """`probs`, `logits`, `logits/m` [S,N,C], `present/m` [N] and `labels` [N] of a whole split, on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    for batch in feed.split(split, method.S):
        out = method(batch)
        row = {"probs": method.predict(out), "logits": out.fused} | {f"logits/{m}": out.z[m] for m in method.mods}
        for m in method.mods:
            present = batch.present(m)
            row[f"present/{m}"] = torch.ones_like(batch.y, dtype=torch.bool) if present is None else present
        for name, value in row.items():
            parts.setdefault(name, []).append(value.cpu())
    found = {name: torch.cat(values, 1) for name, values in parts.items()}
    return found | {"labels": feed.y[feed.rows[split]].cpu()}
