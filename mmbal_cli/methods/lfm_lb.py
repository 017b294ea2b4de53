"""LFM-LB: the mix of alignment and classification is learned (Yang et al., NeurIPS 2024, poster row Ours-LB).

Changes: loss and schedule. Official code: njustkmg/NeurIPS24-LFM (CREMA-D only). Loss, fusion and start are
those of lfm-h; alpha comes from  min_alpha L_CLS(theta*(alpha)),  theta*(alpha) = argmin of the mixed loss. It changes
once per epoch, before training, for each seed apart, with a training batch b and a batch v that is held out:

    onestep (default; the standard one-step unrolled solution, ours): eta = current learning rate, evaluation mode
        g_c, g_a = gradients of L_CLS, L_MM at theta on b;  theta' = theta - eta [(1 - alpha) g_c + alpha g_a]
        dF/dalpha = eta <g_v, g_c - g_a>, g_v = gradient of L_CLS at theta' on v; theta' is thrown away
        r = <g_v, g_c - g_a> / (|<g_v, g_c>| + |<g_v, g_a>|);  alpha <- clip(alpha - lr_alpha r, .05, .95)
    fitted   1 - alpha = polynomial of degree 5 in 199 e / (E - 1), within [0, 1]
    hvp      alpha <- clip(alpha - lr_hvp k, .05, .95), k = mean over the entries of the FIRST parameter tensor of
             (Hessian of the mixed loss) (gradient of L_CLS), both on v; lr_hvp, lr_alpha are halved every 20 epochs
    minnorm  (1 - alpha) g_c + alpha g_a is shortest if <g_c, g_a> >= 0, else alpha = 0.5; on b, within [.001, .999]

The official README command is `lb=fitted, align=js, loss_scale=2` (below 0 around epoch 183). Its "learnable" script is
`hvp` on 8 of 16 held-out samples: no hyper-gradient, alpha stays near .95. `minnorm` is the first release: every batch,
its two weights exchanged; later once per epoch, the right way round. How the paper solves the problem is not known.
Deviations: `onestep` is ours. normalise=cosine (our first design) divides by the length of g_a, long and nearly
orthogonal to g_v: alpha stays near .95. JS is the default as in every version of the code with this alpha: InfoNCE at
such weights leaves small sets of frozen features at chance (docs/results). `fitted` is stretched to the run's epochs;
`hvp` uses all of v. eta includes `loss_scale`; theta' leaves momentum and decay out. M = 1: alpha = 0, no v.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.func import functional_call

from mmbal_cli.methods.base import Batch, Peek, knob
from mmbal_cli.methods.lfm_h import LFM
from mmbal_cli.ops.gradients import gradients, inner, min_norm_pair, unrolled_slope
from mmbal_cli.ops.losses import ce

LOW, HIGH, HALVED = 0.05, 0.95, 20
POLYNOMIAL = (2.04623704e-1, 3.35472727e-3, 1.22989557e-4, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11)


class LFMLB(LFM):
    """alpha is state of the model: a buffer, one number for each seed."""

    card = replace(LFM.card, name="lfm-lb", holds_out="one batch of the training split (lb=onestep and hvp)", deviates=(
        "alpha by one unrolled step (the released code: a polynomial of the epoch)", *LFM.card.deviates))  # fmt: skip
    align = replace(LFM.align, default="js", source="official code; paper: contrastive")
    lb = knob("onestep", "how alpha is found", source="ours; README command: fitted",
              choices=("onestep", "fitted", "hvp", "minnorm"))  # fmt: skip
    start = knob(HIGH, "alpha before the first update", source="official code", low=0, high=1)
    lr_alpha = knob(0.02, "step of alpha along r", source="ours", low=0, high=1, when="lb=onestep")
    rule = knob("relative", "what dF/dalpha is divided by to give r", source="ours", name="normalise",
                choices=("relative", "cosine"), when="lb=onestep")  # fmt: skip
    lr_hvp = knob(1e-4, "step of alpha along k", source="official code", low=0, high=1e6, when="lb=hvp")
    alpha: Tensor

    def build(self) -> None:
        """The model, and alpha [S]."""
        super().build()
        start = self.start if len(self.mods) > 1 else 0.0
        self.register_buffer("alpha", torch.full((self.S,), start, dtype=self.dtype))

    def held_out(self) -> float:
        """One batch, where alpha is judged on samples that training never sees."""
        needed = self.lb in ("onestep", "hvp") and len(self.mods) > 1
        return min(0.25, self.config.batch / self.shape.samples) * needed

    def mix(self) -> Tensor:
        """alpha [S]."""
        return self.alpha

    def begin_epoch(self, peek: Peek) -> None:
        """Move alpha."""
        if self.phase == "unimodal" or len(self.mods) == 1:
            return
        if self.lb == "fitted":
            self.alpha = torch.full_like(self.alpha, fitted(self.epoch, self.phase_epochs))
        elif self.lb == "minnorm":
            self.alpha = self.shortest(peek.sample("train", self.config.batch))
        elif self.lb == "hvp":
            self.move(self.lr_hvp, self.curvature(next(iter(peek.batches("inner")))))
        else:
            r = self.slope(peek.sample("train", self.config.batch), next(iter(peek.batches("inner"))))[1]
            self.log("coef/r", r)
            self.move(self.lr_alpha, r)

    def move(self, rate: float, direction: Tensor) -> None:
        """alpha against `direction` [S], at a rate that is halved every 20 epochs."""
        self.alpha = (self.alpha - rate * 0.5 ** (self.epoch // HALVED) * direction).clamp(LOW, HIGH)

    def theta(self) -> dict[str, Tensor]:
        """What learns."""
        return dict(self.named_parameters())

    def slope(self, b: Batch, v: Batch) -> tuple[Tensor, Tensor]:
        """dF/dalpha through one unrolled step, and r; [S] each."""

        def outer(moved: dict[str, Tensor]) -> Tensor:
            return ce(functional_call(self, moved, (v,)).fused, v.y)

        eta = self.loss_scale * self.opt.lr
        return unrolled_slope(self.theta(), self.terms(self(b), b), outer, self.alpha, eta, self.rule)

    def shortest(self, b: Batch) -> Tensor:
        """alpha of the shortest mixed gradient [S]; 0.5 where the two oppose each other."""
        c, a = (gradients(each, list(self.theta().values())) for each in self.terms(self(b), b))
        return torch.where(inner(c, a) >= 0, min_norm_pair(a, c).clamp(1e-3, 1 - 1e-3), 0.5)

    def curvature(self, v: Batch) -> Tensor:
        """k [S] of the released code, see above."""
        params = list(self.theta().values())
        classification, alignment = self.terms(self(v), v)
        mixed = gradients((1 - self.alpha) * classification + self.alpha * alignment, params, create_graph=True)
        return gradients(inner(mixed, gradients(classification, params)), params[:1])[0].flatten(1).mean(1)


def fitted(epoch: int, epochs: int) -> float:
    """alpha of the official polynomial, stretched from its 200 epochs to `epochs`; `epoch` is 0-based."""
    e = 199 * epoch / max(epochs - 1, 1)
    return min(max(1 - sum(c * e**i for i, c in enumerate(POLYNOMIAL)), 0.0), 1.0)
