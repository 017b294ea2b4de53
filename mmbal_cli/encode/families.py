"""The families of transformers models that can be encoders: how each is loaded, fed and pooled.

Adding a family is one line here, when it takes its input in one of the ways in `FRONTS`. torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmbal_cli.encode.hub import Checkpoint
from mmbal_cli.errors import EncoderError, nearest

# How the numbers are taken from the model's output: at the last layer, and at an inner one ("" = not offered).
#   pooler  its `pooler_output`          cls   the first token          cls2  mean of the first two tokens
#   mean    mean over the valid tokens   tokens  all of them
Taken = tuple[str, str]


@dataclass(frozen=True)
class Family:
    """`pools` maps a pool name to how numbers are taken; the first one is the default of the family."""

    model: str
    front: str
    pools: Mapping[str, Taken]
    load: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""  # the half of a two-tower model that is used
    padded_positions: bool = False  # position numbers start after the padding token's (RoBERTa)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of modality that this family takes."""
        return {"frames": ("video", "image"), "text": ("text",)}.get(self.front, ("audio",))


def _frames(last: str, inner: str) -> dict[str, Taken]:
    return {"mean": (last, inner), "frames": (last, inner)}


_WAVE: dict[str, Taken] = {"mean": ("mean", "mean"), "tokens": ("tokens", "tokens")}
_TEXT: dict[str, Taken] = {**_WAVE, "cls": ("cls", "cls")}
# Poolers that many checkpoints lack (masked-language or classification ones) are left out, not made up.
_BARE = {"add_pooling_layer": False}

FAMILIES: dict[str, Family] = {
    "wav2vec2": Family("Wav2Vec2Model", "wave", _WAVE),
    "hubert": Family("HubertModel", "wave", _WAVE),
    "wavlm": Family("WavLMModel", "wave", _WAVE),
    "data2vec-audio": Family("Data2VecAudioModel", "wave", _WAVE),
    "unispeech-sat": Family("UniSpeechSatModel", "wave", _WAVE),
    "audio-spectrogram-transformer": Family("ASTModel", "fbank", {"cls": ("cls2", "cls2"), "mean": ("mean", "mean")}),
    "clap": Family("ClapModel", "clap", {"mean": ("pooler", "")}, part="audio_model"),
    # CLIP: features before the projection, which its paper uses for linear probes (arXiv 2103.00020, 3.2).
    "clip": Family("CLIPVisionModel", "frames", _frames("pooler", "cls")),
    "clip_vision_model": Family("CLIPVisionModel", "frames", _frames("pooler", "cls")),
    "dinov2": Family("Dinov2Model", "frames", _frames("cls", "cls")),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", "frames", _frames("cls", "cls")),
    "vit": Family("ViTModel", "frames", _frames("cls", "cls"), _BARE),
    "deit": Family("DeiTModel", "frames", _frames("cls", "cls"), _BARE),
    "siglip": Family("SiglipVisionModel", "frames", _frames("pooler", "mean")),
    "siglip_vision_model": Family("SiglipVisionModel", "frames", _frames("pooler", "mean")),
    "resnet": Family("ResNetModel", "frames", _frames("pooler", "")),
    "convnext": Family("ConvNextModel", "frames", _frames("pooler", "")),
    "bert": Family("BertModel", "text", _TEXT, _BARE),
    "distilbert": Family("DistilBertModel", "text", _TEXT),
    "electra": Family("ElectraModel", "text", _TEXT),
    "mpnet": Family("MPNetModel", "text", _TEXT, _BARE, padded_positions=True),
    "roberta": Family("RobertaModel", "text", _TEXT, _BARE, padded_positions=True),
    "xlm-roberta": Family("XLMRobertaModel", "text", _TEXT, _BARE, padded_positions=True),
}

TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)
PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")


def family_of(checkpoint: Checkpoint, kind: str, pool: str, layer: int) -> tuple[str, Family, str]:
    """(model type, family, pool) for this use of a model; EncoderError names what would fit."""
    model_type = str(checkpoint.read("config.json").get("model_type", ""))
    family = FAMILIES.get(model_type)
    if family is None:
        raise EncoderError(f"{checkpoint.folder} is a model of type '{model_type}'.", nearest(model_type, FAMILIES))
    if kind not in family.kinds:
        fitting = ", ".join(name for name, other in FAMILIES.items() if kind in other.kinds) or "none"
        raise EncoderError(
            f"A {model_type} model takes {' or '.join(family.kinds)}, not {kind}.", f"For {kind}: {fitting}."
        )
    pools = [name for name in family.pools if name != "frames" or kind == "video"]
    pool = pools[0] if pool == "auto" else pool
    if pool not in pools:
        raise EncoderError(f"A {model_type} model has no pool '{pool}' for {kind}.", nearest(pool, pools))
    if layer != -1 and not family.pools[pool][1]:
        raise EncoderError(f"A {model_type} model offers its last layer only, not layer {layer}.")
    return model_type, family, pool


def preprocessor(checkpoint: Checkpoint) -> dict[str, Any]:
    """Settings of the checkpoint's image processor or feature extractor."""
    nested = checkpoint.read("processor_config.json")
    found = nested.get("image_processor") or nested.get("feature_extractor") or checkpoint.read(PREPROCESSOR[0])
    if not found:
        raise EncoderError(
            f"{checkpoint.folder} has no preprocessor_config.json.",
            "It says how the model's input was scaled when it was trained.",
            "Copy it from where the weights come from.",
        )
    return dict(found)


def pixels(checkpoint: Checkpoint) -> dict[str, Any]:
    """How frames are fed: size [H,W], and scale, mean, std of x * scale -> (x - mean) / std.

    The decoder squashes the whole picture to the size that the model sees; the checkpoint's own
    crop of the centre and its interpolation are not imitated.
    """
    settings = preprocessor(checkpoint)
    crop = settings.get("crop_size") if settings.get("do_center_crop", True) else None
    size = crop or settings.get("size")
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    elif isinstance(size, int):
        size = (size, size)
    size = list(size or ())
    flat = settings.get("do_normalize", True) is False
    mean = [0.0] * 3 if flat else settings.get("image_mean")
    std = [1.0] * 3 if flat else settings.get("image_std")
    if len(size) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in size) or not mean or not std:
        raise EncoderError(
            f"The preprocessor settings in {checkpoint.folder} are incomplete.",
            "Expected size (or crop_size), image_mean and image_std.",
        )
    scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    return {"size": size, "scale": scale, "mean": list(mean), "std": list(std)}


def sound(checkpoint: Checkpoint, family: Family, seconds: float) -> dict[str, Any]:
    """How audio is fed: rate in Hz and the most seconds of a clip that are used (0 = the family's limit).

    A spectrogram model sees a fixed stretch; a waveform model takes any length, 30 s unless told otherwise.
    """
    settings = preprocessor(checkpoint)
    limit, rate = 3600.0, 16_000
    if family.front == "fbank":
        limit = settings.get("max_length", 1024) * 0.01 + 0.015  # frames of 25 ms, every 10 ms
    elif family.front == "clap":
        limit, rate = float(settings.get("max_length_s", 10)), 48_000
    return {
        "rate": int(settings.get("sampling_rate", rate)),
        "seconds": round(min(seconds or 30.0, limit), 6),
    }


def words(checkpoint: Checkpoint, family: Family, length: int) -> dict[str, Any]:
    """How text is fed: the most tokens of a text that are used (0 = as many as the model was made for)."""
    config = checkpoint.read("config.json")
    room = int(config.get("max_position_embeddings", 512))
    if family.padded_positions:
        room -= int(config.get("pad_token_id", 1)) + 1
    told = checkpoint.read("tokenizer_config.json").get("model_max_length") or room
    return {"length": int(min(length or told, told, room))}


def padded(rows: list[np.ndarray], most: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows [L,F] of different L -> (float32 [n,most,F] with zeros behind, mask [n,most])."""
    features = np.zeros((len(rows), most, rows[0].shape[1]), np.float32)
    mask = np.zeros((len(rows), most), bool)
    for features_row, mask_row, row in zip(features, mask, rows, strict=True):
        features_row[: len(row)] = row[:most]
        mask_row[: len(row)] = True
    return features, mask
