"""D&R: Diagnosing and Re-learning (Wei, Li, Feng, Hu, ECCV 2024, arXiv 2407.09705).

Changes: schedule. Official code: GeWu-Lab/Diagnosing_Relearning_ECCV2024. After the 0-based epochs K, 2K, ..., R K the
features of each modality are clustered, on the training and on the validation split: an adapter that memorises has
clusters that match the labels far better in training, and is pulled back towards its first weights.

    purity = share of samples that are of the most frequent class of their cluster; k-means with k = C on features
             scaled to [-1,1], dimension by dimension and split by split
    w_m = tanh(lam |purity_train - purity_val|);  theta_m <- w_m theta_m(0) + (1 - w_m) theta_m   (adapter m, all of it)

Heads and optimizer state stay as they are (`reset_momentum` forgets the adapter's moments). K is a share of the epochs
(official: 20 of 90). The pull opens the next epoch: what validation scores is what was trained, and nothing follows the
last epoch. Clusters are those of scikit-learn, the best of ten starts, of at most 5000 random samples a split, seeded
by the seed and the modality. A digest says that high purity pulls; in the code it is the gap, as here. Benchmarks that
validate on their test set leak labels here; this uses the validation labels for the gap (and for selection). Only
samples that have the modality are clustered; without any there is no pull. Any number of modalities, each by itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmbal_cli.methods.base import Card, Method, Peek, Split, knob
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.clusters import cluster_purity

MOST = 5000  # samples of a split


class DNR(Method):
    """Soft re-initialisation by the gap of cluster purities."""

    card = Card("dnr", "schedule", "Wei, Li, Feng, Hu, ECCV 2024, arXiv 2407.09705",
                "GeWu-Lab/Diagnosing_Relearning_ECCV2024", "schedule",
                ("the pull comes before the next epoch, after validation",), reduces_to="concat at lam=0")  # fmt: skip
    lam = knob(3.0, "strength of the pull", source="official code", low=0, high=1000)
    every = knob(0.2, "K as a share of the epochs", source="official code: 20 of 90; BalanceBenchmark 0.5",
                 low=0.001, high=1)  # fmt: skip
    times = knob(3, "R, pulls at most", source="official code; BalanceBenchmark 2", low=0)
    reset_momentum = knob(False, "forget the moments of a pulled adapter", source="official code: no")

    def due(self) -> bool:
        """Whether a pull comes before this epoch."""
        done, period = self.epoch - 1, max(1, round(self.every * self.phase_epochs))
        return done > 0 and done % period == 0 and done // period <= self.times

    @torch.no_grad()
    def begin_epoch(self, peek: Peek) -> None:
        """Diagnose, then pull."""
        if not self.due():
            return
        train, val, first = self.purities(peek, "train"), self.purities(peek, "val"), self.initial()
        for m in self.mods:
            w = torch.tanh(self.lam * (train[m] - val[m]).abs()).nan_to_num().to(self.dtype) * self.alive
            self.log(f"coef/purity/train/{m}", train[m].nan_to_num())
            self.log(f"coef/purity/val/{m}", val[m].nan_to_num())
            self.log(f"coef/w/{m}", w)
            pull({p: first[f"enc.{m}_.{name}"] for name, p in self.enc[m].named_parameters()}, w)
            if self.reset_momentum:
                self.opt.forget(self.enc[m].parameters())

    def purities(self, peek: Peek, split: Split) -> dict[str, Tensor]:
        """Purity [S] of the clusters of each modality's features."""
        features: dict[str, list[Tensor]] = {m: [] for m in self.mods}
        present: dict[str, list[Tensor]] = {m: [] for m in self.mods}
        labels = []
        for batch in peek.batches(split):
            labels.append(batch.y[0].cpu())
            for m, h in self.encode(batch).items():
                mask = batch.present(m)
                features[m].append(h.detach().cpu())
                present[m].append(torch.ones_like(labels[-1]).bool() if mask is None else mask[0].cpu())
        y = torch.cat(labels)
        return {m: self.purity(m, split, torch.cat(features[m], 1), torch.cat(present[m]), y) for m in self.mods}

    def purity(self, m: str, split: Split, h: Tensor, has: Tensor, y: Tensor) -> Tensor:
        """Purity [S] of features h [S,N,D] over samples that have m; not a number where there are none."""
        order = self.rng.permutation(f"dnr/rows/{m}/{split}", len(y))
        start = self.rng.uniform(f"dnr/start/{m}/{split}", (), 0, 2**31, torch.float64)
        found = []
        for i in range(self.S):
            rows = order[i][has[order[i]]][:MOST]
            found.append(cluster_purity(h[i, rows], y[rows], self.C, int(start[i])))
        return torch.tensor(found, dtype=torch.float64, device=self.alive.device)


def pull(first: dict[torch.nn.Parameter, Tensor], w: Tensor) -> None:
    """theta <- w theta(0) + (1 - w) theta, w [S]."""
    for p, start in first.items():
        f = per_seed(w, p)
        p.copy_(f * start + (1 - f) * p)
