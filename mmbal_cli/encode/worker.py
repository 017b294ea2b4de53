"""The decoding child: `python -m mmbal_cli.encode.worker`; decodes samples and runs `Encoder.sample`.

One job is one sample: `{"reads": [{"modality", "kind", "value", "decode", "encoder": {"name", "params"}}]}`
where `value` is an absolute path, a text or a vector. The answer carries, for each modality, the index
of its array and the decoder's facts, or an error: a clip without sound still gives its pictures.
Never imports torch: a child is small and starts in a tenth of a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.base import Encoder
from mmbal_cli.errors import MmbalError
from mmbal_cli.media.child import failure, serve


class Reading(NamedTuple):
    """What became of one modality of one sample: an array with facts, or an error."""

    array: np.ndarray | None
    facts: dict[str, Any]
    error: dict[str, str] | None


def command() -> list[str]:
    """The command line of a child, for `Pool`."""
    # -P: a file numpy.py in the current folder must not be imported
    return [sys.executable, "-P", "-m", "mmbal_cli.encode.worker"]


def read_job(modality: str, value: str | list[float], encoder: Encoder) -> dict[str, Any]:
    """The entry of a job's `reads` for one modality; `value` is an absolute path, a text or a vector."""
    return {
        "modality": modality,
        "kind": encoder.kind,
        "value": value,
        "decode": encoder.decode(),
        "encoder": {"name": encoder.name, "params": dict(encoder.params)},
    }


def readings(job: Mapping[str, Any], header: Mapping[str, Any], arrays: list[np.ndarray]) -> dict[str, Reading]:
    """The pool's answer to `job` by modality; a failure of the whole job is one of each modality."""
    if error := header.get("error"):
        return {read["modality"]: Reading(None, {}, error) for read in job["reads"]}
    found = {}
    for modality, answer in header["results"].items():
        array = arrays[answer["array"]] if "array" in answer else None
        found[modality] = Reading(array, answer.get("facts", {}), answer.get("error"))
    return found


def handle(job: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Decode and encode one sample; what two modalities share is decoded once."""
    results: dict[str, Any] = {}
    arrays: list[np.ndarray] = []
    decoded: dict[str, tuple[Any, dict[str, Any]]] = {}
    for read in sorted(job["reads"], key=lambda read: read["kind"]):  # sound first: its header serves the video
        key = json.dumps([read["kind"], read["value"], read["decode"]])
        try:
            if key not in decoded:
                decoded[key] = decode(read["kind"], read["value"], read["decode"])
            raw, facts = decoded[key]
            encoder = _encoder(json.dumps([read["encoder"]["name"], read["kind"], read["encoder"]["params"]]))
            row = encoder.sample(raw, facts)
            if row.dtype.kind == "f" and not np.isfinite(row).all():
                raise ValueError(f"{encoder.name} gave values that are not finite")
            results[read["modality"]] = {"array": len(arrays), "facts": facts}
            arrays.append(row)
        except MmbalError as error:
            results[read["modality"]] = failure(str(error), type(error).__name__)
        except Exception as error:  # whatever a decoder or a strange sample raises is this sample's reason
            text = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            where = f"{read['value']}: " if read["kind"] in ("video", "audio", "image") else ""
            results[read["modality"]] = failure(where + text)
    return {"results": results}, arrays


def decode(kind: str, value: Any, settings: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Raw sample of any kind: (array or text, facts); raises MediaError."""
    if kind == "video":
        from mmbal_cli.media.video import decode_video

        return decode_video(Path(value), **settings)
    if kind == "audio":
        from mmbal_cli.media.audio import decode_audio

        return decode_audio(Path(value), **settings)
    if kind == "image":
        from mmbal_cli.media.image import decode_image

        return decode_image(Path(value), **settings), {}
    if kind == "vector":
        from mmbal_cli.media.text import read_vector

        return read_vector(value), {}
    return value, {}


@lru_cache(maxsize=64)
def _encoder(key: str) -> Encoder:
    name, kind, params = json.loads(key)
    return get_encoder(name, kind, **params)


if __name__ == "__main__":
    serve(handle)
