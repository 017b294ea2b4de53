"""raw-vector: the given numbers, unchanged. For features that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.encode.base import Encoder, Params


class RawVector(Encoder):
    """Identity on float32 [F] or [T,F]; all samples of a modality have one shape.

    Steps that are NaN throughout hold no data: they are stored as zeros with a False mask. `steps` brings sequences of
    different length to one: the steps with data, in order, cut or padded at the end. `divide` is for
    grey levels: 255. `flat` makes one vector of a picture [H,W].
    """

    name = "raw-vector"
    uniform: ClassVar[bool] = True  # `batch` only stacks: a row of another shape is that sample's fault
    params_allowed: ClassVar[Params] = {"steps": (0, 0, 1 << 20), "divide": (1.0, 1e-6, 1e9), "flat": (0, 0, 1)}

    def spec(self) -> dict[str, Any]:
        """As for every encoder; parameters that change nothing are left out."""
        changed = {name: value for name, value in self.params.items() if value != self.params_allowed[name][0]}
        return super().spec() | {"params": changed}

    def sample(self, raw: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
        """The values; where steps are missing as bits (uint32), because a decoding child refuses NaN in numbers."""
        values = np.asarray(raw, np.float32)
        if self.params["divide"] != 1:
            values = values / np.float32(self.params["divide"])
        steps = int(self.params["steps"])
        if values.ndim == 1 or self.params["flat"]:
            if steps:
                raise ValueError(f"has the shape {list(values.shape)}; `steps` is for [T,F]")
            return values.reshape(-1)
        valid = ~np.isnan(values).all(1)
        if steps:
            values = values[valid][:steps]
            values = np.concatenate([values, np.full((steps - len(values), values.shape[1]), np.nan, np.float32)])
        return values if np.isfinite(values).all() else np.ascontiguousarray(values).view(np.uint32)

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """float32 [n,F] or [n,T,F] with a mask [n] or [n,T]."""
        features, mask = super().batch([row.view(np.float32) if row.dtype == np.uint32 else row for row in rows])
        if features.ndim == 3:
            mask = ~np.isnan(features).all(2)
            features = np.where(mask[..., None], features, np.float32(0))
        return features, mask


ENCODER = RawVector
