"""Frozen encoders: a table of plain data, and `get_encoder`. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmbal_cli.encode.catalogue import CATALOGUE, card_of
from mmbal_cli.errors import EncoderError, nearest

if TYPE_CHECKING:
    from mmbal_cli.encode.base import Encoder

KINDS = ("video", "audio", "image", "text", "vector")


class Entry(NamedTuple):
    """One line of the table; `width` None means that the model or the data decides it."""

    name: str
    kinds: tuple[str, ...]
    width: int | None
    about: str
    module: str
    download: bool = False


SHIPPED = {
    entry.name: entry
    for entry in (
        Entry("logmel-stats", ("audio",), 640, "statistics of a log-mel spectrogram (hand-made)", "logmel"),
        Entry("hog-motion", ("video", "image"), 760, "gradient histograms, colour, motion (hand-made)", "hog"),
        Entry("ngram-hash", ("text",), 2048, "hashed words and character n-grams (hand-made)", "ngram"),
        Entry("raw-vector", ("vector",), None, "the given numbers, unchanged", "vector"),
    )
}

# Public models under short names, see catalogue.py; any other model of their families works by its own name.
PRETRAINED = tuple(
    Entry(card.name, card.kinds, card.width, card.about, "pretrained", download=True) for card in CATALOGUE.values()
)

DEFAULTS = {"audio": "logmel-stats", "video": "hog-motion", "image": "hog-motion"} | {
    "text": "ngram-hash",
    "vector": "raw-vector",
}


def get_encoder(name: str, kind: str, **params: Any) -> Encoder:
    """The encoder `name` for a modality of `kind`; an empty name takes the shipped one of that kind.

    `name` is a shipped encoder, a short name of the catalogue (`ast`, `ast@REVISION`), or a transformers model:
    a name with a slash or of an existing folder (`owner/model@revision`, `./folder`). Needs no network.
    Raises EncoderError with the nearest name, RecipeError for a wrong parameter.
    """
    if kind not in KINDS:
        raise EncoderError(f"There is no kind of modality '{kind}'.", nearest(kind, KINDS))
    name = name or DEFAULTS[kind]
    entry, card = SHIPPED.get(name), card_of(name)
    if (known := entry or card) and kind not in known.kinds:
        fitting = [e.name for e in (*SHIPPED.values(), *PRETRAINED) if kind in e.kinds]
        raise EncoderError(f"Encoder '{name}' does not take {kind}.", f"For {kind}: {', '.join(fitting)}.")
    if entry:
        module = importlib.import_module(f"mmbal_cli.encode.{entry.module}")
        return module.ENCODER(kind, **params)
    if card or re.search(r"[/\\]", name) or Path(name).is_dir():
        from mmbal_cli.encode.pretrained import Pretrained

        return Pretrained(name, kind, **params)
    raise EncoderError(
        f"Unknown encoder '{name}'.",
        nearest(name.partition("@")[0], [*SHIPPED, *CATALOGUE]),
        "A transformers model is written owner/model@revision, a local folder ./folder; see `mmbal encoders list`.",
    )
