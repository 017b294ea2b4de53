"""From features in memory to batches [S,B,...]: own shuffle for each seed in training, plain order otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from mmbal_cli.data.features import FeatureSet
from mmbal_cli.errors import UsageError
from mmbal_cli.methods.base import Batch, Method, Part, Shape, Split, View
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
        rows = self.features.rows
        classes, occurring = len(self.features.classes), len(self.features.y.unique())
        return Shape(self.features.shapes, classes, len(rows["train"]), len(rows["val"]), occurring)

    def carved(self, share: float) -> Feed:
        """The same tensors with `share` of the training split set aside as `inner`."""
        if share <= 0:
            return self
        other = copy(self)
        other.rows = self.rows | {split: rows.to(self.device) for split, rows in self.features.inner(share).items()}
        return other

    def epoch(self, rng: SeedStreams, size: int, split: str = "train", stream: str = "shuffle") -> Iterator[Batch]:
        """One pass over a split: every sample once for each seed, the last batch may be short."""
        order = rng.permutation(stream, len(self.rows[split])).to(self.device)  # [S,N]
        chosen = self.rows[split][order]
        labels = self.y[chosen]
        for idx, rows, y in zip(order.split(size, 1), chosen.split(size, 1), labels.split(size, 1), strict=True):
            yield self._gather(idx, rows, y)

    def drawn(self, parts: Iterable[Part], size: int) -> Iterator[Batch]:
        """The training samples that a method asked for, part by part."""
        for part in parts:
            awake = part.valid.unflatten(1, (-1, size)).any(-1).T.tolist()  # [batches,S], once for all on the host
            for start, up in zip(range(0, part.idx.shape[1], size), awake, strict=True):
                cut = slice(start, start + size)
                idx = part.idx[:, cut]
                rows = self.rows["train"][idx]
                keep = {m: value[:, cut] for m, value in part.keep.items()}
                batch = self._gather(idx, rows, self.y[rows])
                own = None if all(up) else tuple(up)
                yield replace(batch, valid=part.valid[:, cut], keep=keep, part=part.name, awake=own)

    def sample(self, split: str, rng: SeedStreams, n: int) -> Batch:
        """n random samples of a split for each seed, without replacement."""
        idx = rng.permutation("sample", len(self.rows[split]))[:, :n].to(self.device)
        rows = self.rows[split][idx]
        return self._gather(idx, rows, self.y[rows])

    def _gather(self, idx: Tensor, rows: Tensor, y: Tensor) -> Batch:
        flat = rows.flatten()
        x = {m: value.index_select(0, flat).view(*rows.shape, *value.shape[1:]) for m, value in self.x.items()}
        mask = {m: None if value is None else value[rows] for m, value in self.mask.items()}
        return Batch(x, y, idx, mask, rows)

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
            yield Batch(x, self.y[rows].expand(S, n), idx, mask, rows.expand(S, n))
            position += n


class SplitPeek:
    """What a hook may look at: training, validation and the inner split, never test."""

    def __init__(self, method: Method, feed: Feed) -> None:
        self._method, self._feed = method, feed

    def batches(self, split: Split) -> Iterator[Batch]:
        """The split in order, in evaluation batches."""
        return self._feed.split(self._allowed(split), self._method.S)

    def epoch(self, split: Split) -> Iterator[Batch]:
        """One shuffled pass in training batches, in an order of its own."""
        method = self._method
        return self._feed.epoch(method.rng, method.config.batch, self._allowed(split), "probe")

    def sample(self, split: Split, n: int) -> Batch:
        """n random samples for each seed."""
        return self._feed.sample(self._allowed(split), self._method.rng, n)

    def outputs(self, split: Split) -> View:
        """Logits, labels and masks of the whole split."""
        found = predictions(self._method, self._feed, self._allowed(split), cpu=False)
        mods = self._method.mods
        S = self._method.S
        present = {m: found[f"present/{m}"] for m in mods}
        return View(found["logits"], {m: found[f"logits/{m}"] for m in mods}, found["labels"].expand(S, -1), present)

    def losses(self, split: Split) -> dict[str, Tensor]:
        """Mean cross-entropy [S] of `fused` and each modality."""
        return self._scored("nll", split)

    def accuracy(self, split: Split) -> dict[str, Tensor]:
        """Accuracy [S] of `fused` and each modality."""
        return self._scored("accuracy", split)

    def _scored(self, score: str, split: Split) -> dict[str, Tensor]:
        found = scores(self._method, self.batches(split))
        return {name.partition("/")[2] or "fused": v for name, v in found.items() if name.partition("/")[0] == score}

    def _allowed(self, split: str) -> str:
        if split not in ("train", "val", "inner"):
            raise UsageError(f"A method asked for the '{split}' split.", "The test set is sealed: train or val only.")
        if split not in self._feed.rows:
            raise UsageError("A method asked for the inner split.", "Its `held_out` must say how much to set aside.")
        return split


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
def predictions(method: Method, feed: Feed, split: str, cpu: bool = True) -> dict[str, Tensor]:
    """`probs`, `logits`, `logits/m` [S,N,C], `present/m` [S,N] and `labels` [N] of a whole split."""
    parts: dict[str, list[Tensor]] = {}
    for batch in feed.split(split, method.S):
        out = method(batch)
        row = {"probs": method.predict(out), "logits": out.fused} | {f"logits/{m}": out.z[m] for m in method.mods}
        for m in method.mods:
            present = batch.present(m)
            row[f"present/{m}"] = torch.ones_like(batch.y, dtype=torch.bool) if present is None else present
        for name, value in row.items():
            parts.setdefault(name, []).append(value.cpu() if cpu else value)
    found = {name: torch.cat(values, 1) for name, values in parts.items()}
    labels = feed.y[feed.rows[split]]
    return found | {"labels": labels.cpu() if cpu else labels}
