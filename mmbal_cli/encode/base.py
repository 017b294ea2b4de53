"""Encoder: a frozen function from one decoded sample to features, in two halves.

`sample` is numpy only and runs in the decoding child; `batch` runs in the parent. A shipped encoder
does all its work in `sample` and `batch` only stacks; a pretrained one preprocesses in `sample` and
runs its model in `batch`. `spec` holds everything that decides the numbers, so it is the cache key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.errors import EncoderError, RecipeError, nearest

# name -> (default, lowest, highest); the type of the default is the type of the parameter
Params = Mapping[str, tuple[float, float, float]]


class Encoder:
    """Base of all encoders; a shipped one sets the class attributes and writes `sample`."""

    name: str = ""
    version: ClassVar[int] = 1
    params_allowed: ClassVar[Params] = {}
    decode_params: ClassVar[tuple[str, ...]] = ()

    def __init__(self, kind: str, **params: Any) -> None:
        """Take `kind` (video, audio, image, text, vector) and the parameters of this encoder."""
        self.kind = kind
        self.params = checked(self.name, self.params_allowed, params)

    def spec(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON: name, version of the function, kind and parameters."""
        return {"name": self.name, "version": self.version, "kind": self.kind, "params": dict(self.params)}

    def decode(self) -> dict[str, Any]:
        """Arguments of the decoder of this kind, e.g. {"frames": 8, "size": 96} or {"rate": 16000}."""
        return {name: self.params[name] for name in self.decode_params}

    def sample(self, raw: Any, facts: Mapping[str, Any]) -> np.ndarray:
        """Per-sample half, numpy only: decoded array (or text) -> [F], [n,F] or what `batch` expects."""
        return np.asarray(raw)

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Batch half: rows of one shape -> (float32 [n,F] or [n,T,F], mask bool [n] or [n,T])."""
        shapes = sorted({row.shape for row in rows})
        if len(shapes) > 1:
            raise EncoderError(
                f"Encoder '{self.name}' got rows of different shapes: {shapes[0]} and {shapes[-1]}.",
                "All samples of a modality need the same width.",
            )
        features = np.stack(rows).astype(np.float32)
        return features, np.ones(features.shape[: features.ndim - 1], bool)


def checked(name: str, allowed: Params, given: Mapping[str, Any]) -> dict[str, float]:
    """Defaults overridden by `given`; RecipeError for an unknown, mistyped or out-of-range parameter."""
    values: dict[str, float] = {key: default for key, (default, _, _) in allowed.items()}
    for key, value in given.items():
        if key not in allowed:
            raise RecipeError(f"Encoder '{name}' has no parameter '{key}'.", nearest(key, allowed))
        default, low, high = allowed[key]
        whole = isinstance(default, int)
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
            kind = "a whole number" if whole else "a number"
            raise RecipeError(f"{name}.{key} is {value!r}.", f"Expected {kind} from {low} to {high}.")
        if not low <= value <= high:
            raise RecipeError(f"{name}.{key} is {value}.", f"Expected {low} to {high}.")
        values[key] = type(default)(value)
    return values
