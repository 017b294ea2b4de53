"""raw-vector: the given numbers, unchanged. For features that were computed elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mmbal_cli.encode.base import Encoder


class RawVector(Encoder):
    """Identity on float32 [F] or [T,F]; all samples of a modality have one shape."""

    name = "raw-vector"

    def sample(self, raw: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
        """The vector itself."""
        return np.asarray(raw, np.float32)


ENCODER = RawVector
