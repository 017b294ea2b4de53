"""What is recorded of a batch now and then, under the same names for every method, at bounded cost.

In the first step of a phase and every `EVERY` steps, counted over the whole training, the batch of the step is looked
at once more, after the update and in evaluation mode (no noise is drawn, nothing of the training changes):

    train/accuracy, train/nll     of the fused prediction;  train/accuracy/M, train/nll/M  of each modality's own logits
    grad/M                        2-norm of the gradient of M's adapter, as it was used
    discrepancy/M                 OGM's ratio: sum over the samples with every modality of M's probability of the true
                                  class, over that of another modality (ops/discrepancy.py)

The cost is a forward pass in 32 steps; `benchmarks/dynamics.py` measures it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from mmbal_cli.methods.base import Batch, Method
from mmbal_cli.ops.discrepancy import discrepancy
from mmbal_cli.ops.gradients import gradient_norm
from mmbal_cli.ops.losses import both, ce, masked_mean, true_class_probability

EVERY = 32


@torch.no_grad()
def record_batch(method: Method, batch: Batch) -> None:
    """Log the common columns for the batch that was just trained on."""
    for m in method.mods:
        if (norm := gradient_norm(method.enc[m].parameters())) is not None:
            method.log(f"grad/{m}", norm)
    method.eval()
    out = method(replace(batch, valid=None, keep={}, part="", awake=None))
    probability, z = method.predict(out), out.z  # z is made when it is asked for: before dropout is on again
    method.train()
    true = probability.gather(-1, batch.y[..., None]).squeeze(-1)
    nll = -true.clamp_min(torch.finfo(true.dtype).tiny).log()
    method.log("train/accuracy", masked_mean((probability.argmax(-1) == batch.y).to(nll.dtype), batch.valid))
    method.log("train/nll", masked_mean(nll, batch.valid))
    counted = batch.valid  # of the discrepancy: only samples with every modality are compared
    for m in method.mods:
        own = both(batch.present(m), batch.valid)
        hit = (z[m].argmax(-1) == batch.y).to(nll.dtype)
        method.log(f"train/accuracy/{m}", masked_mean(hit, own))
        method.log(f"train/nll/{m}", ce(z[m], batch.y, own))
        counted = both(counted, batch.present(m))
    if len(method.mods) > 1:
        sure = torch.stack([true_class_probability(z[m], batch.y) for m in method.mods], 1)  # [S,M,B]
        rho = discrepancy((sure if counted is None else sure * counted[:, None]).sum(-1))
        for i, m in enumerate(method.mods):
            method.log(f"discrepancy/{m}", rho[:, i])
