"""A slow BMLMI: one seed, loops over samples, plain float64 autograd; all three stages with their hand-overs."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from mmbal_cli.engine.feed import Feed
from mmbal_cli.methods.base import Method
from mmbal_cli.seeds import SeedStreams
from tests.methods import reference

Params = reference.Params
Features = Callable[[Params, list[int]], list[dict[str, Tensor]]]  # rows -> h of each
D64 = torch.float64


def f1_of(predicted: list[int], true: list[int], C: int) -> float:
    """Macro-F1 over all C classes."""
    each = []
    for c in range(C):
        hits = sum(a == b == c for a, b in zip(predicted, true, strict=True))
        size = predicted.count(c) + true.count(c)
        each.append(2 * hits / size if size else 0.0)
    return sum(each) / C


def nmi_of(a: list[int], b: list[int]) -> float:
    """I / sqrt(H H) from counts, 0 for a constant."""
    n = len(a)
    pairs = list(zip(a, b, strict=True))
    info = sum(
        pairs.count((x, y)) / n * math.log(pairs.count((x, y)) * n / (a.count(x) * b.count(y))) for x, y in set(pairs)
    )
    Ha, Hb = (-sum(v.count(x) / n * math.log(v.count(x) / n) for x in set(v)) for v in (a, b))
    return info / math.sqrt(Ha * Hb) if Ha > 0 and Hb > 0 else 0.0


class Slow:
    """Seed `seed` of `method` (a fresh one, of which it is number i) on `data`, as the engine would train it."""

    def __init__(self, method: Method, i: int, seed: int, data: Feed, features: Features | None = None) -> None:
        self.mods, self.C, self.D, self.config, self.k = method.mods, method.C, method.D, method.config, method.knobs
        self.data, self.seed = data, seed
        state = {k: v[i].detach().clone() for k, v in method.state_dict().items()}
        self.p = {k: v.requires_grad_() for k, v in state.items() if k.split(".")[0] in ("enc", "heads", "fusion")}
        self.start = {k: v.detach().clone() for k, v in self.p.items()}
        self.s = torch.zeros(len(self.mods) + 1, dtype=D64, requires_grad=True)
        self.w = [1.0] * (len(self.mods) + 1)
        self.y = [int(v) for v in data.y]
        rows = data.features.inner(self.k["holdout"]) if self.k["holdout"] else {}
        self.train = rows.get("train", data.rows["train"]).tolist()
        self.val = data.rows["val"].tolist()
        self.aside = rows["inner"].tolist() if rows else self.val
        self.h = features or self.adapters
        self.teacher, self.students, self.f1 = -1, [], []

    def has(self, m: str, row: int) -> bool:
        mask = self.data.mask[m]
        return mask is None or bool(mask[row].any())

    def adapters(self, p: Params, rows: list[int]) -> list[dict[str, Tensor]]:
        none = torch.zeros(self.D, dtype=D64)
        return [
            {m: reference.adapter(p, m, self.data.x[m][row]) if self.has(m, row) else none for m in self.mods}
            for row in rows
        ]

    def logits(self, p: Params, rows: list[int]) -> list[dict[str, Tensor]]:
        """z of `fused` and each modality for every row."""
        found = []
        for h in self.h(p, rows):
            z = {m: h[m] @ p[f"heads.{m}_.weight"] + p[f"heads.{m}_.bias"][0] for m in self.mods}
            fused = torch.cat([h[m] for m in self.mods]) @ p["fusion.head.weight"] + p["fusion.head.bias"][0]
            found.append(z | {"fused": fused})
        return found

    def cross_entropies(self, rows: list[int]) -> dict[str, Tensor]:
        z = self.logits(self.p, rows)
        found = {}
        for task in ("fused", *self.mods):
            each = [
                reference.cross_entropy(v[task], self.y[row])
                for v, row in zip(z, rows, strict=True)
                if task == "fused" or self.has(task, row)
            ]
            # a batch without the modality: a gradient of zero, which still moves by momentum and decay
            still = sum((0.0 * v.sum() for k, v in self.p.items() if f".{task}_." in k), torch.zeros((), dtype=D64))
            found[task] = sum(each) / len(each) if each else still
        return found

    def epoch(
        self, number: int, epochs: int, velocity: dict[str, Tensor], backward: Callable[[list[int]], None]
    ) -> None:
        c = self.config
        lr = c.lr * (c.step_factor if number >= round(c.step_at * epochs) else 1.0)
        order = self.rng.permutation("shuffle", len(self.train))[0].tolist()
        for k in range(0, len(order), c.batch):
            backward([self.train[j] for j in order[k : k + c.batch]])
            reference.sgd(self.p | {"s": self.s}, velocity, lr, c.momentum, c.weight_decay)

    def validate(self, task: str) -> tuple[float, float]:
        """Accuracy, and minus the NLL, on the samples that have the modality."""
        rows = [row for row in self.val if task == "fused" or self.has(task, row)]
        with torch.no_grad():
            z = [v[task] for v in self.logits(self.p, rows)]
        hits = sum(int(v.argmax()) == self.y[row] for v, row in zip(z, rows, strict=True))
        nll = sum(float(reference.cross_entropy(v, self.y[row])) for v, row in zip(z, rows, strict=True))
        return hits / len(rows), -nll / len(rows)

    def stage(self, epochs: int, backward: Callable[[list[int]], None], mods: list[str]) -> None:
        """Train; every modality of `mods` goes back to its best epoch."""
        best: dict[str, tuple[tuple[float, float], Params]] = {}
        velocity: dict[str, Tensor] = {}
        self.rng = SeedStreams((self.seed,))  # every stage is shuffled alike
        for number in range(epochs):
            self.epoch(number, epochs, velocity, backward)
            for m in mods:
                score = self.validate(m)
                if m not in best or score > best[m][0]:
                    best[m] = score, {k: v.detach().clone() for k, v in self.p.items() if f".{m}_." in k}
        for _, part in best.values():
            self.restore(part)

    def restore(self, part: Params) -> None:
        with torch.no_grad():
            for k, v in part.items():
                self.p[k].copy_(v)

    def measure(self) -> tuple[dict[str, float], dict[tuple[str, str], float]]:
        """Macro-F1 and NMI of the predicted classes."""
        with torch.no_grad():
            z = self.logits(self.p, self.aside)
        tasks = ("fused", *self.mods)
        there = {t: [t == "fused" or self.has(t, row) for row in self.aside] for t in tasks}
        said = {t: [int(v[t].argmax()) for v in z] for t in tasks}
        true = [self.y[row] for row in self.aside]

        def only(values: list[int], *names: str) -> list[int]:
            return [v for b, v in enumerate(values) if all(there[t][b] for t in names)]

        f1 = {t: f1_of(only(said[t], t), only(true, t), self.C) for t in tasks}
        nmi = {(a, b): nmi_of(only(said[a], a, b), only(said[b], a, b)) for a, b in combinations(tasks, 2)}
        return f1, nmi | {(b, a): v for (a, b), v in nmi.items()}

    # ------------------------------------------------------------------------------ the stages

    def unimodal(self) -> None:
        def backward(rows: list[int]) -> None:
            losses = self.cross_entropies(rows)
            sum(losses[m] for m in self.mods).backward()

        self.stage(min(self.k["E_A"], self.config.epochs), backward, list(self.mods))

    def distil(self) -> None:
        f1, nmi = self.measure()
        self.f1 = [f1[m] for m in self.mods]
        self.teacher = self.f1.index(max(self.f1))
        t = self.mods[self.teacher]
        always = self.k["kd_gate"] == "always"
        chosen = [m for m in self.mods if m != t and (always or nmi[t, m] >= self.k["theta"])]
        self.students = [int(m in chosen) for m in self.mods]
        old = {k: v.detach().clone() for k, v in self.p.items()}
        if self.k["kd_init"] == "scratch":
            self.restore({k: self.start[k] for k in old if any(f".{m}_." in k for m in chosen)})
        T, lam = self.k["T"], self.k["lam"]

        def backward(rows: list[int]) -> None:
            with torch.no_grad():
                taught = [v[t] for v in self.logits(old, rows)]
            z, losses = self.logits(self.p, rows), self.cross_entropies(rows)
            whole = torch.zeros((), dtype=D64)
            for m in chosen:
                each = []
                for soft, v, row in zip(taught, z, rows, strict=True):
                    if self.has(m, row) and self.has(t, row):
                        q, p = (v[m] / T).softmax(0), (soft / T).softmax(0)
                        each.append(sum(p[c] * (p[c].log() - q[c].log()) for c in range(self.C)))
                whole = whole + (1 - lam) * losses[m]
                whole = whole + (lam * T**2 * sum(each) / len(each) if each else 0.0)
            if chosen:
                whole.backward()

        self.stage(min(self.k["E_B"], self.config.epochs), backward, chosen)
        if self.k["kd_accept"] == "val":
            after = self.measure()[0]
            worse = [m for j, m in enumerate(self.mods) if m in chosen and after[m] < self.f1[j]]
            self.restore({k: old[k] for k in old if any(f".{m}_." in k for m in worse)})

    def reweigh(self) -> None:
        f1, nmi = self.measure()
        M, k = len(self.mods), self.k
        bar = sum(nmi[a, b] for a, b in combinations(self.mods, 2)) / (M * (M - 1) / 2)
        a = [(1 - f1["fused"]) * (k["eps0"] + 1 - bar)]
        for m in self.mods:
            nu = sum(nmi[m, o] for o in self.mods if o != m) / (M - 1)
            factor = {"dependence": nu, "complement": 1 - nu, "dominance": 1 - nmi["fused", m]}
            a.append((1 - f1[m]) * (k["eps0"] + factor[k["mi_role"]] if k["mi_role"] != "none" else 1.0))
        if k["mi_role"] == "none":
            a[0] = 1 - f1["fused"]
        if sum(a) > 0:
            target = [min(max((M + 1) * v / sum(a), k["w_min"]), k["w_max"]) for v in a]
            self.w = [k["rho"] * w + (1 - k["rho"]) * v for w, v in zip(self.w, target, strict=True)]

    def train_step(self, rows: list[int]) -> None:
        losses, learned = self.cross_entropies(rows), self.k["weights"] == "uncertainty"
        beta = self.k["beta"]
        w = [torch.exp(-self.s[j]) if learned else torch.tensor(v, dtype=D64) for j, v in enumerate(self.w)]
        w = [w[0], *(beta * v for v in w[1:])]
        whole = sum(w[j] * losses[t] for j, t in enumerate(("fused", *self.mods))) + (self.s.sum() if learned else 0.0)
        equal = {}
        for j, m in enumerate(self.mods if self.k["apply"] == "gradnorm" else ()):
            names = [k for k in self.p if k.startswith(f"enc.{m}_.")]
            tasks = [losses["fused"], losses[m]]
            g = [torch.autograd.grad(L, [self.p[k] for k in names], retain_graph=True) for L in tasks]
            norm = [math.sqrt(sum(float((v**2).sum()) for v in part)) for part in g]
            mean = sum(norm) / 2
            for k, first, second in zip(names, *g, strict=True):
                v = w[0] * mean * first / norm[0] + w[j + 1] * mean * second / norm[1]
                equal[k] = v.detach()
        whole.backward()
        for k, v in equal.items():
            self.p[k].grad = v

    def train_epochs(self) -> list[tuple[Params, list[float]]]:
        """State and weights after each epoch of joint training."""
        found, velocity = [], {}
        self.rng = SeedStreams((self.seed,))
        for number in range(self.config.epochs):
            self.epoch(number, self.config.epochs, velocity, self.train_step)
            if self.k["weights"] == "relative":
                self.reweigh()
            found.append(({k: v.detach().clone() for k, v in self.p.items()}, list(self.w)))
        return found

    def run(self) -> list[tuple[Params, list[float]]]:
        """All three stages."""
        self.unimodal()
        if self.k["kd_gate"] != "never" and len(self.mods) > 1:
            self.distil()
        return self.train_epochs()
