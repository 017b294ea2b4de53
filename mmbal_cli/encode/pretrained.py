"""Pretrained transformers models as frozen encoders, by hub name and revision or from a local folder.

Never random weights: a checkpoint that lacks a weight the model uses is refused. Never code from a
checkpoint: safetensors only, `trust_remote_code` off. `spec` and `decode` read the checkpoint's JSON
files and need neither torch nor transformers; both are imported when the first batch is encoded.

What one sample becomes (`pool`; the first is the default):
  video   mean: mean of the frames' vectors [F];  frames: one vector a frame [T,F]
  image   mean: the picture's vector [F]
  audio   mean: mean over valid tokens [F];  tokens: [T,F], T from `seconds`;  AST: cls or mean
  text    mean: mean over tokens [F];  cls: the first token [F];  tokens: [T,F], T from `length`
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbal_cli.encode import families
from mmbal_cli.encode.base import Encoder, Params, checked
from mmbal_cli.encode.hub import Checkpoint, locate
from mmbal_cli.errors import RecipeError, nearest

if TYPE_CHECKING:
    from mmbal_cli.encode.model import Model

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
POOLS = ("auto", "mean", "cls", "frames", "tokens")
SHORTEST = 0.1  # seconds; shorter clips are padded with silence to the reach of one token

_NUMBERS: Params = {"layer": (-1, -99, 99), "batch": (0, 0, 4096)}
_OF_KIND: dict[str, Params] = {
    "video": {"frames": (8, 1, 512)},
    "audio": {"seconds": (0.0, 0.0, 3600.0)},
    "text": {"length": (0, 0, 8192)},
}


class Pretrained(Encoder):
    """A transformers model `name` (`owner/model@revision` or a folder) for a modality of `kind`.

    Parameters: `device` (auto, cpu, cuda, cuda:1, ...), `precision` (auto: float32 on a CPU, autocast to
    bfloat16 or float16 on a GPU), `pool`, `layer` (-1 = last), `batch` (frames, clips or texts at once;
    0 = by device), and by kind `frames`, `seconds`, `length` (0 = what the model was made for).
    `remembered` (path -> [size, mtime_ns, sha256]) may be set to a mapping that outlives the process.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        device: str = "auto",
        pool: str = "auto",
        precision: str = "auto",
        **numbers: Any,
    ) -> None:
        super().__init__(kind)
        self.name = name
        for key, value, choices in (("pool", pool, POOLS), ("precision", precision, PRECISIONS)):
            if value not in choices:
                raise RecipeError(f"{name}.{key} is {value!r}.", nearest(str(value), choices))
        allowed = {**_NUMBERS, **_OF_KIND.get(kind, {})}
        named = {"device": device, "pool": pool, "precision": precision}
        self.params: dict[str, Any] = {**checked(name, allowed, numbers), **named}
        self.remembered: MutableMapping[str, Any] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The folder of the model; fetched from the hub when it is not on this machine."""
        return locate(self.name)

    @cached_property
    def use(self) -> tuple[str, families.Family, str]:
        """(model type, family, pool)."""
        return families.family_of(self.checkpoint, self.kind, self.params["pool"], self.params["layer"])

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """How raw data is fed to the model, read from the checkpoint."""
        _, family, _ = self.use
        if family.front == "frames":
            return families.pixels(self.checkpoint)
        if family.front == "text":
            return families.words(self.checkpoint, family, self.params["length"])
        return families.sound(self.checkpoint, family, self.params["seconds"])

    def spec(self) -> dict[str, Any]:
        """All that decides the numbers: model, commit, digests of its files, feeding, layer and pool.

        Neither the folder's path nor the device is part of it; a half precision asked for by name is.
        """
        model_type, family, pool = self.use
        others = families.TOKENIZER if family.front == "text" else families.PREPROCESSOR
        decided = {key: self.params[key] for key in ("layer", "precision", "frames") if key in self.params}
        return {
            "name": self.checkpoint.name,
            "revision": self.checkpoint.revision,
            "version": self.version,
            "kind": self.kind,
            "family": model_type,
            "files": self.checkpoint.digests(others, self.remembered),
            "inputs": self.inputs,
            "params": {**decided, "pool": pool},
        }

    def decode(self) -> dict[str, Any]:
        """Decoder settings: {"size", "frames"} (video), {"size"} (image), {"rate", "seconds"} (audio)."""
        if self.kind == "text":
            return {}
        if self.kind == "audio":
            return dict(self.inputs)
        height, width = self.inputs["size"]
        size = {"size": height if height == width else [height, width]}
        return size | ({"frames": self.params["frames"]} if self.kind == "video" else {})

    def sample(self, raw: Any, facts: Mapping[str, Any]) -> np.ndarray:
        """Nothing but a plain array: uint8 [T,H,W,3] or [H,W,3], float32 [n], or UTF-8 bytes of the text."""
        if self.kind == "text":
            return np.frombuffer(str(raw).encode("utf-8", "replace"), np.uint8)
        return np.ascontiguousarray(raw, np.float32 if self.kind == "audio" else np.uint8)

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What `sample` gave for n samples -> (float32 [n,F] or [n,T,F], mask bool [n] or [n,T]).

        Runs in mini-batches that mix the frames of several clips; a result does not depend on its
        neighbours (padding is masked, or avoided where a model cannot mask it). Raises EncoderError,
        DeviceError.
        """
        _, _, pool = self.use
        if self.kind == "text":
            return self.model.whole([row.tobytes().decode("utf-8") for row in rows])
        if self.kind == "audio":
            return self.model.whole([self._clip(row) for row in rows])
        clips = [row if row.ndim == 4 else row[None] for row in rows]
        vectors, _ = self.model.whole([frame for clip in clips for frame in clip])
        ends = np.cumsum([len(clip) for clip in clips])[:-1]
        of_clip = np.split(vectors, ends)
        if pool == "mean":
            return np.stack([frames.mean(0) for frames in of_clip]), np.ones(len(rows), bool)
        return families.padded(of_clip, self.params["frames"])

    def _clip(self, wave: np.ndarray) -> np.ndarray:
        wave = wave[: int(self.inputs["seconds"] * self.inputs["rate"])]
        short = int(SHORTEST * self.inputs["rate"]) - len(wave)
        return np.pad(wave, (0, max(short, 0)))

    @cached_property
    def model(self) -> Model:
        """The loaded model; loads it and checks the device on first use."""
        from mmbal_cli.encode.model import Model

        return Model(self.checkpoint, self.use, self.inputs, self.params)
