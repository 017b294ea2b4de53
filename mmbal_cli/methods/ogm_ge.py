"""OGM-GE: OGM with generalisation enhancement (Peng et al., CVPR 2022, arXiv 2203.15332).

Changes: gradient. Official code: GeWu-Lab/OGM-GE_CVPR2022. After the damping of `ogm` every modulated tensor
gets Gaussian noise of its own spread before scaling, also where k = 1:

    g <- k_m g + eps,  eps ~ N(0, sigma^2) elementwise,  sigma = std(g) + 1e-8 over that one tensor (unbiased)

Deviations: those of `ogm`. Noise comes from the stream of each seed, so that seeds stay independent.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from mmbal_cli.methods.ogm import OGM
from mmbal_cli.nn.stacked import per_seed
from mmbal_cli.ops.gradients import deviation


class OGMGE(OGM):
    """Damping and noise."""

    card = replace(OGM.card, name="ogm-ge", reduces_to="")

    def change(self, p: Tensor, k: Tensor, m: str) -> None:
        """g <- k g + noise of g's own spread."""
        assert p.grad is not None
        sigma = per_seed(deviation(p.grad) + 1e-8, p)
        p.grad.mul_(k).addcmul_(self.rng.normal(f"ogm-ge/{m}", p.grad), sigma)
