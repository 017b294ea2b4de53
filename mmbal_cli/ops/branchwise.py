"""Numbers of each modality, spread over the parameters of its branch.

A branch is an adapter, what else is named, and the modality's own part of a head that adds up over modalities: its
layer in `sum`, its rows in `concat`. The common bias of `concat` and all other fusions belong to no branch.
"""

from __future__ import annotations

from math import inf

from torch import Tensor, nn

from mmbal_cli.errors import RecipeError, nearest
from mmbal_cli.nn.fusion.base import Fusion
from mmbal_cli.nn.fusion.concat import Concat
from mmbal_cli.nn.fusion.sum import Sum
from mmbal_cli.nn.stacked import PerModality, per_seed

Spread = dict[nn.Parameter, Tensor]


def branchwise(values: Tensor, mods: tuple[str, ...], *modules: PerModality, head: Fusion | None = None) -> Spread:
    """values [S,M] in shapes that broadcast over the parameters of each modality's part of `modules` and `head`."""
    parts = [*modules, head.heads] if isinstance(head, Sum) and head.variant != "feature" else modules
    found = {p: per_seed(values[:, j], p) for j, m in enumerate(mods) for part in parts for p in part[m].parameters()}
    if isinstance(head, Concat) and head.additive:
        weight = head.head.weight
        found[weight] = values.repeat_interleave(weight.shape[1] // len(mods), 1)[..., None]
    return found


def by_name(text: str, mods: tuple[str, ...]) -> list[float]:
    """A factor of each modality, from text like `audio=0.9,video=1.1`; 1 where none is given."""
    found = dict.fromkeys(mods, 1.0)
    for name, _, value in (pair.partition("=") for pair in text.replace(",", " ").split()):
        if name not in found:
            raise RecipeError(f"A factor is given to '{name}', which is no modality.", nearest(name, mods))
        try:
            found[name] = float(value)
        except ValueError:
            raise RecipeError(f"The factor of '{name}' is {value!r}.", f"Expected a number: {name}=0.5") from None
        if not 0 <= found[name] < inf:
            raise RecipeError(f"The factor of '{name}' is {value}.", "Expected a number from 0.")
    return list(found.values())
