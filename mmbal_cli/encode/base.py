"""Encoder: a frozen function from one decoded sample to features, in two halves.

`sample` is numpy only and runs in the decoding child; `batch` runs in the parent. A shipped encoder
does all its work in `sample` and `batch` only stacks; a pretrained one preprocesses in `sample` and
runs its model in `batch`. `spec` holds everything that decides the numbers, so it is the cache key.

How a clip is read (which frames, which windows of sound) belongs to the modality, not to the encoder: all
encoders of a kind take the same `DECODE` settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mmbal_cli.errors import EncoderError, RecipeError, nearest

# name -> (default, lowest, highest); the type of the default is the type of the parameter
Params = Mapping[str, tuple[float, float, float]]

# kind -> setting -> (default, lowest, highest) or (default, all choices); the default is left out of keys
DECODE: dict[str, dict[str, tuple[Any, ...]]] = {
    "video": {
        "sampling": ("uniform", ("uniform", "ends", "segment-centre", "fps")),
        "fps": (1.0, 0.01, 240.0),  # pictures a second, for sampling fps
        "folder_fps": (1.0, 0.01, 240.0),  # of a clip that is a folder of pictures
        "show": ("pictures", ("pictures", "flow", "difference")),
    },
    "audio": {
        "window": (0.0, 0.0, 600.0),  # seconds; 0: the clip as a whole
        "hop": (0.0, 0.0, 600.0),  # seconds from window to window; 0: one follows the other
        "windows": (0, 0, 64),  # most of them; 0: as many as fit, up to 64
    },
}
Steps = list[list[float]]  # [[start, end], ...] in seconds


class Encoder:
    """Base of all encoders; a shipped one sets the class attributes and writes `sample`.

    `settings` are the decode settings given that differ from the defaults; they are part of `params`, so that
    `get_encoder(name, kind, **params)` makes the same encoder again.
    """

    name: str = ""
    version: ClassVar[int] = 1
    params_allowed: ClassVar[Params] = {}
    decode_params: ClassVar[tuple[str, ...]] = ()
    uniform: ClassVar[bool] = False  # whether rows of a modality must have one shape although `batch` is its own

    def __init__(self, kind: str, **params: Any) -> None:
        """Take `kind` (video, audio, image, text, vector), its decode settings and the encoder's own parameters."""
        self.kind = kind
        self.settings, own = decode_settings(kind, params)
        choices = DECODE.get(kind, {})
        self.params: dict[str, Any] = {**checked(self.name, self.params_allowed, own, choices), **self.settings}

    def spec(self) -> dict[str, Any]:
        """All that decides the numbers, as JSON: name, version of the function, kind and parameters."""
        return {"name": self.name, "version": self.version, "kind": self.kind, "params": dict(self.params)}

    def decode(self) -> dict[str, Any]:
        """Arguments of the decoder of this kind, e.g. {"frames": 8, "size": 96} or {"rate": 16000}."""
        return {name: self.params[name] for name in self.decode_params} | self.settings

    @property
    def timed(self) -> bool:
        """Whether the features are [T,F], one row for each decoded time step, and not one row [F]."""
        return bool(self.settings.get("window"))

    def steps(self, facts: Mapping[str, Any]) -> Steps | None:
        """Start and end in seconds of each stored time step, from the facts of the decoded clip; None without a time.

        One extent of the whole for features [F], one for each decoded step (frame, window) for [T,F].
        """
        times = facts.get("times")
        if not times:
            return None
        return [list(step) for step in times] if self.timed else [extent(times)]

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


def decode_settings(kind: str, params: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(decode settings of this kind that differ from the defaults, all other parameters); RecipeError if wrong.

    For every encoder: pass the first on to the decoder, check the second as its own parameters.
    """
    declared = DECODE.get(kind, {})
    found: dict[str, Any] = {}
    for key in (key for key in declared if key in params):
        default, *limits = declared[key]
        if len(limits) == 1:
            value = params[key]
            if value not in limits[0]:
                raise RecipeError(f"{kind}.{key} is {value!r}.", f"Expected {' or '.join(limits[0])}.")
        else:
            value = _number(f"{kind}.{key}", params[key], (default, *limits))
        if value != default:
            found[key] = value
    needs = {"fps": ("sampling=fps", found.get("sampling") == "fps")}
    needs |= dict.fromkeys(("hop", "windows"), ("window", "window" in found))
    for key, (other, given) in needs.items():
        if key in found and not given:  # it would be without effect
            text = f"It is used with {kind}.{other} only; its default is {declared[key][0]}."
            raise RecipeError(f"{kind}.{key} is {found[key]}.", text)
    rest = {key: value for key, value in params.items() if key not in declared}
    return dict(sorted(found.items())), rest


def extent(times: Sequence[Sequence[float]]) -> list[float]:
    """From the first start to the last end of some time steps."""
    return [min(start for start, _ in times), max(end for _, end in times)]


def checked(name: str, allowed: Params, given: Mapping[str, Any], others: Iterable[str] = ()) -> dict[str, float]:
    """Defaults overridden by `given`; RecipeError for an unknown, mistyped or out-of-range parameter.

    `others`: names that are taken too, for the suggestion.
    """
    values: dict[str, float] = {key: default for key, (default, _, _) in allowed.items()}
    for key, value in given.items():
        if key not in allowed:
            raise RecipeError(f"Encoder '{name}' has no parameter '{key}'.", nearest(key, [*allowed, *others]))
        values[key] = _number(f"{name}.{key}", value, allowed[key])
    return values


def _number(what: str, value: Any, limits: tuple[Any, ...]) -> float:
    """`value` as a number of the type of the default; RecipeError when it is none or out of range."""
    default, low, high = limits
    whole = isinstance(default, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        kind = "a whole number" if whole else "a number"
        raise RecipeError(f"{what} is {value!r}.", f"Expected {kind} from {low} to {high}.")
    if not low <= value <= high:
        raise RecipeError(f"{what} is {value}.", f"Expected {low} to {high}.")
    return type(default)(value)
