"""Frozen encoders: a table of plain data, and `get_encoder`. Nothing heavy is imported here."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

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

# Families that `pretrained.py` runs; the name is an example of what a user types.
PRETRAINED = tuple(
    Entry(name, kinds, None, about, "pretrained", download=True)
    for name, kinds, about in (
        ("facebook/wav2vec2-base-960h", ("audio",), "wav2vec2, HuBERT, WavLM"),
        ("MIT/ast-finetuned-audioset-10-10-0.4593", ("audio",), "audio spectrogram transformer (AST)"),
        ("laion/clap-htsat-unfused", ("audio",), "CLAP audio tower"),
        ("openai/clip-vit-base-patch32", ("video", "image"), "CLIP image tower, frame by frame"),
        ("facebook/dinov2-base", ("video", "image"), "DINOv2, frame by frame"),
        ("google/vit-base-patch16-224", ("video", "image"), "ViT, frame by frame"),
        ("google/siglip-base-patch16-224", ("video", "image"), "SigLIP image tower, frame by frame"),
        ("google-bert/bert-base-uncased", ("text",), "BERT, RoBERTa, MiniLM, MPNet"),
    )
)

DEFAULTS = {"audio": "logmel-stats", "video": "hog-motion", "image": "hog-motion"} | {
    "text": "ngram-hash",
    "vector": "raw-vector",
}


def get_encoder(name: str, kind: str, **params: Any) -> Encoder:
    """The encoder `name` for a modality of `kind`; an empty name takes the shipped one of that kind.

    A name with a slash, or of an existing folder, is a transformers model (`owner/model@revision`,
    `./folder`). Raises EncoderError with the nearest name, RecipeError for a wrong parameter.
    """
    if kind not in KINDS:
        raise EncoderError(f"There is no kind of modality '{kind}'.", nearest(kind, KINDS))
    name = name or DEFAULTS[kind]
    if entry := SHIPPED.get(name):
        if kind not in entry.kinds:
            fitting = [e.name for e in SHIPPED.values() if kind in e.kinds]
            raise EncoderError(f"Encoder '{name}' does not take {kind}.", f"For {kind}: {', '.join(fitting)}.")
        module = importlib.import_module(f"mmbal_cli.encode.{entry.module}")
        return module.ENCODER(kind, **params)
    if re.search(r"[/\\]", name) or Path(name).is_dir():
        from mmbal_cli.encode.pretrained import Pretrained

        return Pretrained(name, kind, **params)
    raise EncoderError(
        f"Unknown encoder '{name}'.",
        nearest(name, SHIPPED),
        "A transformers model is written owner/model@revision, a local folder ./folder; see `mmbal encoders list`.",
    )
