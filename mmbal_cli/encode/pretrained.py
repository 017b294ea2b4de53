"""Pretrained transformers models as frozen encoders, by hub name and revision or from a local folder.

Never random weights: a checkpoint that lacks a weight the model uses is refused. Never code from a
checkpoint: safetensors only, `trust_remote_code` off. `spec` and `decode` read the checkpoint's JSON
files and need neither torch nor transformers; both are imported when the first batch is encoded.

What one sample becomes (`pool`; the first is the default):
  video   mean: mean of the frames' vectors [F];  frames: one vector a frame [T,F];  cls, patches: the mean over the
          frames of the class token or of the mean patch [F];  tokens: all tokens of all frames [T,F]
          a model that sees a clip at once: mean over all tokens;  frames: one vector a time step of it;  tokens
  image   mean: the picture's vector [F];  cls, patches, tokens as above
  audio   mean: mean over valid tokens [F];  tokens: [T,F], T from `seconds`;  AST: cls, mean or tokens
          with windows (`window`): one such vector a window [T,F]
  text    mean: mean over tokens [F];  cls: the first token [F];  tokens: [T,F], T from `length`
A text with `media.text.PAIR` in it is a pair, which the tokenizer writes in its own form for two texts.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from mmbal_cli.encode import families
from mmbal_cli.encode.base import DECODE, Encoder, Params, Steps, checked, decode_settings, extent
from mmbal_cli.encode.catalogue import address_of
from mmbal_cli.encode.hub import Checkpoint, locate
from mmbal_cli.encode.pictures import processed
from mmbal_cli.errors import EncoderError, RecipeError, nearest

if TYPE_CHECKING:
    from mmbal_cli.encode.model import Model

PRECISIONS = ("auto", "float32", "bfloat16", "float16")
POOLS = ("auto", "mean", "cls", "patches", "frames", "tokens")
FRAMES = 8  # of a clip, for models that see one picture at a time
DETAIL = 1080  # px: the decoder shrinks a picture whose shorter side is longer, and leaves all others as they are
SHORTEST = 0.1  # seconds; shorter clips are padded with silence to the reach of one token

_NUMBERS: Params = {"layer": (-1, -99, 99), "batch": (0, 0, 4096)}
_OF_KIND: dict[str, Params] = {
    "video": {"frames": (0, 0, 512)},
    "audio": {"seconds": (0.0, 0.0, 3600.0)},
    "text": {"length": (0, 0, 8192)},
}


def parameters(kind: str) -> Params:
    """Numbers that an encoder of `kind` takes beside the decode settings: name -> (default, lowest, highest)."""
    return {**_NUMBERS, **_OF_KIND.get(kind, {})}


class Pretrained(Encoder):
    """A transformers model `name` (a short name, `owner/model@revision` or a folder) for a modality of `kind`.

    Parameters: `device` (auto, cpu, cuda, cuda:1, ...), `precision` (auto: float32 on a CPU, autocast to
    bfloat16 or float16 on a GPU), `pool`, `layer` (-1 = last), `batch` (frames, clips or texts at once;
    0 = by device), by kind `frames`, `seconds`, `length` (0 = what the model was made for), and the decode settings.
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
        self.kind, self.name = kind, name
        for key, value, choices in (("pool", pool, POOLS), ("precision", precision, PRECISIONS)):
            if value not in choices:
                raise RecipeError(f"{name}.{key} is {value!r}.", nearest(str(value), choices))
        self.settings, own = decode_settings(kind, numbers)
        if pool == "tokens" and self.settings.get("window"):
            raise RecipeError(f"{name}.pool is 'tokens' and window {self.settings['window']}.", "Choose one of them.")
        named = {"device": device, "pool": pool, "precision": precision}
        numbers = checked(name, parameters(kind), own, [*DECODE.get(kind, {}), *named])
        self.params: dict[str, Any] = {**numbers, **named, **self.settings}
        self.remembered: MutableMapping[str, Any] = {}

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The folder of the model; fetched from the hub when it is not on this machine."""
        return locate(address_of(self.name))

    @cached_property
    def use(self) -> tuple[str, families.Family, str]:
        """(model type, family, pool)."""
        return families.family_of(self.checkpoint, self.kind, self.params["pool"], self.params["layer"])

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """How raw data is fed to the model, read from the checkpoint."""
        _, family, _ = self.use
        if family.front in ("frames", "clip"):
            return families.pixels(self.checkpoint, family)
        if family.front == "text":
            return families.words(self.checkpoint, family, self.params["length"])
        window = self.settings.get("window", 0.0)
        return families.sound(self.checkpoint, family, self.params["seconds"], window)

    @cached_property
    def frames(self) -> int:
        """Frames of a clip; EncoderError when the model sees another number of them at once."""
        asked = int(self.params.get("frames", 0))
        if self.use[1].front != "clip":
            return asked or FRAMES
        needed, _ = families.together(self.checkpoint)
        if asked not in (0, needed) or self.settings.get("sampling") == "fps":
            told = "sampling=fps" if self.settings.get("sampling") == "fps" else f"frames={asked}"
            found = f"'{self.name}' sees {needed} frames at once and cannot take {told}."
            raise EncoderError(found, "", f"--set NAME.frames={needed}")
        return needed

    def spec(self) -> dict[str, Any]:
        """All that decides the numbers: model, commit, digests of its files, feeding, layer and pool.

        Neither the folder's path nor the device is part of it; a half precision asked for by name is.
        """
        model_type, family, pool = self.use
        others = families.TOKENIZER if family.front == "text" else families.PREPROCESSOR
        decided = {key: self.params[key] for key in ("layer", "precision")} | self.settings
        decided |= {"frames": self.frames} if self.kind == "video" else {}
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
        """Arguments of the decoder; pictures come as they are, for `sample` to do what the model's processor does."""
        if self.kind == "text":
            return {}
        if self.kind == "audio":
            whole = "window" not in self.settings
            seconds = self.inputs["seconds"] if whole else self.params["seconds"]
            return {"rate": self.inputs["rate"], **({"seconds": seconds} if seconds else {}), **self.settings}
        own = {"size": DETAIL, "fit": "shortest"}
        return own | ({"frames": self.frames, **self.settings} if self.kind == "video" else {})

    def sample(self, raw: Any, facts: Mapping[str, Any]) -> np.ndarray:
        """A plain array: uint8 [T,H,W,3] or [H,W,3] of the model's size, float32 [n] or [W,n], or UTF-8 bytes."""
        if self.kind == "text":
            return np.frombuffer(str(raw).encode("utf-8", "replace"), np.uint8)
        if self.kind == "audio":
            return np.ascontiguousarray(raw, np.float32)
        return processed(np.asarray(raw), self.inputs)

    @property
    def timed(self) -> bool:
        """Whether the features are [T,F]."""
        return super().timed or self.use[2] in ("frames", "tokens")

    def steps(self, facts: Mapping[str, Any]) -> Steps | None:
        """Start and end in seconds of each stored step that is valid; None for tokens that are no sequence in time."""
        times, (_, family, pool) = facts.get("times"), self.use
        if not times or (pool == "tokens" and family.front in ("frames", "clip", "fbank", "clap")):
            return None
        if pool == "frames":
            group = families.together(self.checkpoint)[1] if family.front == "clip" else 1
            return [extent(times[start : start + group]) for start in range(0, len(times), group)]
        if pool != "tokens":
            return super().steps(facts)
        start, end = extent(times)
        end = min(end, start + self.inputs["seconds"])
        samples = round(max(end - start, SHORTEST) * self.inputs["rate"])
        count = families.tokens_of(self.checkpoint, family, samples)
        edges = np.linspace(start, end, count + 1).round(4).tolist()
        return [list(step) for step in pairwise(edges)] or None

    def batch(self, rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """What `sample` gave for n samples -> (float32 [n,F] or [n,T,F], mask bool [n] or [n,T]).

        Runs in mini-batches that mix the frames of several clips; a result does not depend on its
        neighbours (padding is masked, or avoided where a model cannot mask it). Raises EncoderError,
        DeviceError.
        """
        _, _, pool = self.use
        if self.kind == "text":
            return self.model.whole([row.tobytes().decode("utf-8") for row in rows])
        if self.kind == "audio" and "window" not in self.settings:
            return self.model.whole([self._clip(row) for row in rows])
        if self.use[1].front == "clip":
            return self.model.whole(rows)
        if self.kind == "audio":
            of_clip = self._split([[self._clip(window) for window in row] for row in rows])
            return families.padded(of_clip, self._windows())
        of_clip = self._split([row if row.ndim == 4 else row[None] for row in rows])
        if pool == "tokens":
            return families.padded([flat.reshape(-1, flat.shape[-1]) for flat in of_clip], self._most(of_clip))
        if pool == "frames":
            return families.padded(of_clip, self.frames)
        return np.stack([frames.mean(0) for frames in of_clip]), np.ones(len(rows), bool)

    def _split(self, samples: list[Any]) -> list[np.ndarray]:
        """One result for each part (frame, window) of each sample, from one run over all parts."""
        results, _ = self.model.whole([part for sample in samples for part in sample])
        return np.split(results, np.cumsum([len(sample) for sample in samples])[:-1])

    def _windows(self) -> int:
        from mmbal_cli.media.audio import most_windows

        cut = {key: self.settings[key] for key in ("window", "hop", "windows") if key in self.settings}
        return most_windows(self.inputs["rate"], seconds=self.params["seconds"], **cut)

    def _most(self, of_clip: list[np.ndarray]) -> int:
        return of_clip[0].shape[1] * (self.frames if self.kind == "video" else 1)

    def _clip(self, wave: np.ndarray) -> np.ndarray:
        wave = wave[: int(self.inputs["seconds"] * self.inputs["rate"])]
        short = int(SHORTEST * self.inputs["rate"]) - len(wave)
        return np.pad(wave, (0, max(short, 0)))

    @cached_property
    def model(self) -> Model:
        """The loaded model; loads it and checks the device on first use."""
        from mmbal_cli.encode.model import Model

        return Model(self.checkpoint, self.use, self.inputs, self.params)
