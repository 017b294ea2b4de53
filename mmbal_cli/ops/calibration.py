"""Temperature, information budgets and evidence weights: how much label a modality gives, and how sure it is.

R rows are independent fits (seeds times modalities), N samples, C classes; everything in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmbal_cli.nn.stacked import Linear
from mmbal_cli.ops.losses import ce, entropy, masked_mean, softmax_among
from mmbal_cli.seeds import SeedStreams

COLDEST, HOTTEST = 1e-3, 1e3  # bracket of the temperature
HALVINGS = 30  # of the bracket in log T: 1e-8 wide at the end
HIDDEN = 16  # width of the gate


def fit_temperature(z: Tensor, y: Tensor, present: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The temperature [R] of least NLL of logits z [R,N,C], and that NLL [R], over present samples [R,N].

    The slope of the NLL in 1/T is the mean of E_p[z] - z_y and rises with 1/T, so the bracket is halved by its sign:
    a fixed number of times, and flat stretches (constant or saturated logits) cannot mislead it.
    """
    true = z.gather(-1, y[..., None]).squeeze(-1)
    low, high = z.new_full(z.shape[:1], math.log(COLDEST)), z.new_full(z.shape[:1], math.log(HOTTEST))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        expected = ((z / middle.exp()[:, None, None]).softmax(-1) * z).sum(-1)
        too_cold = masked_mean(expected - true, present) > 0
        low, high = torch.where(too_cold, middle, low), torch.where(too_cold, high, middle)
    T = ((low + high) / 2).exp()
    return T, ce(z / T[:, None, None], y, present)


def label_entropy(y: Tensor, classes: int, present: Tensor) -> Tensor:
    """Entropy [R] of the class frequencies that occur in y [R,N] among present samples [R,N]."""
    hit = (y[..., None] == torch.arange(classes, device=y.device)) & present[..., None]
    counts = hit.sum(1).double()  # [R,C]
    share = counts / counts.sum(1, keepdim=True).clamp_min(1)
    return -torch.special.xlogy(share, share).sum(1)


def information_share(nll: Tensor, label: Tensor) -> Tensor:
    """max(0, H - NLL) / H: the share of the labels' entropy that a predictor accounts for; 0 where H is 0."""
    return torch.where(label > 0, (1 - nll / label.clamp_min(1e-12)).clamp_min(0), 0.0)


def accuracy_share(accuracy: Tensor, classes: int) -> Tensor:
    """Accuracy above chance, as a share of what is left above chance; at least 0."""
    return ((accuracy - 1 / classes) / (1 - 1 / classes)).clamp_min(0)


def global_prior(budget: Tensor, rule: str, T: float) -> Tensor:
    """Weights [S,M] from budgets [S,M]: their shares (`ratio`) or softmax(budget / T) (`softmax`)."""
    return (budget / T).softmax(1) if rule == "softmax" else budget / budget.sum(1, keepdim=True)


class Budgets(nn.Module):
    """What was measured of every modality, and the standing that follows: all [S,M], the anchor [S]."""

    share: Tensor  # best share so far
    nll: Tensor  # lowest calibrated NLL so far
    beta: Tensor  # budget
    pi: Tensor  # prior weight
    delta: Tensor  # distance to the anchor's budget
    anchor: Tensor  # the modality with the highest budget, the first of equals

    def __init__(self, S: int, M: int, dtype: torch.dtype) -> None:
        super().__init__()
        start = {"share": 0.0, "nll": torch.inf, "beta": 1.0, "pi": 1 / M, "delta": 0.0}
        for name, value in start.items():
            self.register_buffer(name, torch.full((S, M), value, dtype=dtype))
        self.register_buffer("anchor", torch.zeros(S, dtype=torch.long))

    @torch.no_grad()
    def measure(self, z: Tensor, y: Tensor, present: Tensor, estimator: str) -> tuple[Tensor, Tensor, Tensor]:
        """Take logits z [S,M,N,C] of samples y [S,N], present [S,M,N], into account.

        Returns temperature and calibrated NLL of these logits, and where that NLL is the lowest so far.
        """
        (S, M, _, C), labels = z.shape, y[:, None].expand_as(present).flatten(0, 1)
        z, present = z.flatten(0, 1), present.flatten(0, 1)
        T, nll = fit_temperature(z, labels, present)
        if estimator == "acc":
            share = accuracy_share(masked_mean((z.argmax(-1) == labels).to(z.dtype), present), C)
        else:
            share = information_share(nll, label_entropy(labels, C, present))
        T, nll, share = T.view(S, M), nll.view(S, M), share.view(S, M)
        better = nll < self.nll
        self.nll.copy_(torch.where(better, nll, self.nll))
        self.share.copy_(torch.maximum(share, self.share))
        return T, nll, better

    @torch.no_grad()
    def settle(self, least: float, rule: str, T: float) -> None:
        """Budgets of at least `least`, prior, anchor and distances from the best shares."""
        self.beta.copy_(self.share.clamp_min(least))
        self.pi.copy_(global_prior(self.beta, rule, T))
        self.anchor.copy_(self.beta.argmax(1))
        self.delta.copy_(self.beta.gather(1, self.anchor[:, None]) - self.beta)


def doubt(z: Tensor, present: Tensor) -> Tensor:
    """Entropy over ln C and largest probability [S,B,M,2] of logits z [S,B,M,C]; 1 and 1/C where absent [S,B,M]."""
    C = z.shape[-1]
    H = entropy(z.flatten(1, 2)).view(present.shape) / math.log(C)
    return torch.stack([torch.where(present, H, 1.0), torch.where(present, z.softmax(-1).amax(-1), 1 / C)], -1)


def evidence_weights(pi: Tensor, evidence: Tensor, present: Tensor) -> Tensor:
    """softmax_m(ln pi + evidence) [S,B,M]: pi [S,M], evidence and present [S,B,M]; 0 where absent."""
    score = pi.clamp_min(1e-12).log()[:, None] + evidence
    return softmax_among(score, present)


def silent_gate(rng: SeedStreams, M: int, dtype: torch.dtype) -> nn.Sequential:
    """2M -> 16 -> ReLU -> M, whose answer is 0 until it learns."""
    hidden, last = Linear(rng, "gate/0", 2 * M, HIDDEN, dtype), Linear(rng, "gate/1", HIDDEN, M, dtype)
    with torch.no_grad():
        for p in last.parameters():
            p.zero_()
    return nn.Sequential(hidden, nn.ReLU(), last)
