"""One modality by itself: adapter and linear head, trained on the samples that have it.

Changes: nothing but the inputs. Formula: z = h_m W + b, loss = CE(z, y) over samples where m is present.
Initialisation and shuffling are those of the joint methods for the same seed.
"""

from __future__ import annotations

from torch import Tensor

from mmbal_cli.errors import RecipeError, nearest
from mmbal_cli.methods.base import Batch, Card, Method, Out, knob
from mmbal_cli.ops.losses import ce


class Unimodal(Method):
    """`mmbal train --method unimodal` is one run for each modality; `unimodal:NAME` is one of them."""

    card = Card(
        "unimodal",
        "reference",
        reference=True,
        fusions=("sum",),
        ordered="the first modality is used where none is named",
    )
    modality = knob("", "the modality that is used", source="ours")

    def modalities(self) -> tuple[str, ...]:
        """The chosen modality (the first when none is named)."""
        chosen = self.modality or next(iter(self.shape.modalities))
        if chosen not in self.shape.modalities:
            raise RecipeError(f"No modality '{chosen}'.", nearest(chosen, self.shape.modalities))
        return (chosen,)

    def loss(self, out: Out, batch: Batch) -> Tensor:
        """Cross-entropy over samples that have the modality."""
        return ce(out.fused, batch.y, batch.present(self.mods[0]))

    def selects(self, parameter: str) -> str:
        """The modality's own score, over samples that have it."""
        return self.mods[0]
