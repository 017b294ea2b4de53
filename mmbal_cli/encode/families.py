"""The families of transformers models that can be encoders: how each is loaded, fed and pooled.

Adding a family is one line here, when it takes its input in one of the ways in `FRONTS`. torch-free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmbal_cli.encode.hub import Checkpoint
from mmbal_cli.encode.pictures import picture_plan
from mmbal_cli.errors import EncoderError, nearest

# How the numbers are taken from the model's output: at the last layer, and at an inner one ("" = not offered).
#   pooler  its `pooler_output`          cls      the first token          cls2   mean of the first two tokens
#   mean    mean over the valid tokens   patches  mean without the first tokens, which are no patches
#   tokens  all of them                  map      all places of a feature map
#   tubes   mean over the patches of each time step of a clip
Taken = tuple[str, str]


@dataclass(frozen=True)
class Family:
    """`pools` maps a pool name to how numbers are taken; the first one is the default of the family."""

    model: str
    front: str
    pools: Mapping[str, Taken]
    load: Mapping[str, Any] = field(default_factory=dict)
    part: str = ""  # the half of a two-tower model that is used
    processor: str = ""  # of pictures, where the checkpoint does not name its own; see pictures.py
    prefix: int = 0  # tokens before the patches
    padded_positions: bool = False  # position numbers start after the padding token's (RoBERTa)
    positions: int = 512  # tokens, where the configuration does not say
    pairs: bool = True  # whether the tokenizer has a form for two texts; else they are joined with a blank

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of modality that this family takes."""
        kinds = {"frames": ("video", "image"), "clip": ("video",), "text": ("text",)}
        return kinds.get(self.front, ("audio",))


def _frames(last: str, inner: str, **more: Taken) -> dict[str, Taken]:
    return {"mean": (last, inner), "frames": (last, inner), **more}


_TOKENS: Taken = ("tokens", "tokens")
_WAVE: dict[str, Taken] = {"mean": ("mean", "mean"), "tokens": _TOKENS}
_TEXT: dict[str, Taken] = {**_WAVE, "cls": ("cls", "cls")}
_SPECTROGRAM: dict[str, Taken] = {"cls": ("cls2", "cls2"), "mean": ("mean", "mean"), "tokens": _TOKENS}
_PATCHES: dict[str, Taken] = {"patches": ("patches", "patches"), "tokens": _TOKENS}
# CLIP: features before the projection, which its paper uses for linear probes (arXiv 2103.00020, 3.2).
_CLIP = Family(
    "CLIPVisionModel",
    "frames",
    _frames("pooler", "cls", cls=("pooler", "cls"), **_PATCHES),
    processor="clip",
    prefix=1,
)
_CLIP_TEXT = Family(
    "CLIPTextModel",
    "text",
    {"cls": ("pooler", ""), **_WAVE},  # its end-of-text token stands for the text
    positions=77,
    pairs=False,
)
_VIT = _frames("cls", "cls", cls=("cls", "cls"), **_PATCHES)
_SIGLIP = Family("SiglipVisionModel", "frames", _frames("pooler", "mean", **_PATCHES), processor="siglip")
_MAP = _frames("pooler", "", tokens=("map", ""))
# Poolers that many checkpoints lack (masked-language or classification ones) are left out, not made up.
_BARE = {"add_pooling_layer": False}

# By `model_type`, or `model_type/kind` for the other tower of a model.
FAMILIES: dict[str, Family] = {
    "wav2vec2": Family("Wav2Vec2Model", "wave", _WAVE),
    "hubert": Family("HubertModel", "wave", _WAVE),
    "wavlm": Family("WavLMModel", "wave", _WAVE),
    "data2vec-audio": Family("Data2VecAudioModel", "wave", _WAVE),
    "unispeech-sat": Family("UniSpeechSatModel", "wave", _WAVE),
    "whisper": Family("WhisperModel", "mel", _WAVE, part="encoder"),
    "audio-spectrogram-transformer": Family("ASTModel", "fbank", _SPECTROGRAM),
    "clap": Family("ClapModel", "clap", {"mean": ("pooler", "")}, part="audio_model"),
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov2": Family("Dinov2Model", "frames", _VIT, processor="bit", prefix=1),
    "dinov2_with_registers": Family("Dinov2WithRegistersModel", "frames", _VIT, processor="bit", prefix=1),
    "vit": Family("ViTModel", "frames", _VIT, _BARE, processor="vit", prefix=1),
    "deit": Family("DeiTModel", "frames", _VIT, _BARE, processor="deit", prefix=2),
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "resnet": Family("ResNetModel", "frames", _MAP, processor="convnext"),
    "convnext": Family("ConvNextModel", "frames", _MAP, processor="convnext"),
    "videomae": Family(
        "VideoMAEModel",
        "clip",
        {"mean": ("mean", "mean"), "frames": ("tubes", "tubes"), "tokens": _TOKENS},
        processor="videomae",
    ),
    "bert": Family("BertModel", "text", _TEXT, _BARE),
    "distilbert": Family("DistilBertModel", "text", _TEXT),
    "electra": Family("ElectraModel", "text", _TEXT),
    "mpnet": Family("MPNetModel", "text", _TEXT, _BARE, padded_positions=True),
    "roberta": Family("RobertaModel", "text", _TEXT, _BARE, padded_positions=True),
    "xlm-roberta": Family("XLMRobertaModel", "text", _TEXT, _BARE, padded_positions=True),
    "clip/text": _CLIP_TEXT,
    "clip_text_model": _CLIP_TEXT,
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
    model_type = f"{model_type}/{kind}" if f"{model_type}/{kind}" in FAMILIES else model_type
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
    parts = (nested.get(part) for part in ("image_processor", "feature_extractor", "video_processor"))
    found = next(filter(None, parts), None) or checkpoint.read(PREPROCESSOR[0])
    if not found:
        raise EncoderError(
            f"{checkpoint.folder} has no preprocessor_config.json.",
            "It says how the model's input was scaled when it was trained.",
            "Copy it from where the weights come from.",
        )
    return dict(found)


def pixels(checkpoint: Checkpoint, family: Family) -> dict[str, Any]:
    """How pictures are fed: the steps of the checkpoint's own processor, see `pictures.picture_plan`."""
    return picture_plan(preprocessor(checkpoint), family.processor)


def together(checkpoint: Checkpoint) -> tuple[int, int]:
    """(frames that a clip model sees at once, frames of one of its time steps)."""
    config = checkpoint.read("config.json")
    return int(config.get("num_frames", 16)), int(config.get("tubelet_size", 2))


def sound(checkpoint: Checkpoint, family: Family, seconds: float, window: float = 0.0) -> dict[str, Any]:
    """How audio is fed: rate in Hz and the most seconds of a clip or window (0 = the family's limit).

    A spectrogram model sees a fixed stretch; a waveform model takes any length, 30 s unless told otherwise.
    EncoderError for a window that is longer than the model's stretch.
    """
    settings = preprocessor(checkpoint)
    limit, rate = 3600.0, 16_000
    if family.front == "fbank":
        limit = settings.get("max_length", 1024) * 0.01 + 0.015  # frames of 25 ms, every 10 ms
    elif family.front == "mel":
        limit = float(settings.get("chunk_length", 30))
    elif family.front == "clap":
        limit, rate = float(settings.get("max_length_s", 10)), 48_000
    if window > limit:
        raise EncoderError(f"A window of {window:g} s is longer than the {limit:g} s that this model sees.")
    return {
        "rate": int(settings.get("sampling_rate", rate)),
        "seconds": round(min(window or seconds or 30.0, limit), 6),
    }


def tokens_of(checkpoint: Checkpoint, family: Family, samples: int) -> int:
    """Tokens that an audio model makes of `samples` samples; 0 where they are not a sequence in time."""
    config = checkpoint.read("config.json")
    if family.front == "mel":
        return -(-samples // (2 * int(preprocessor(checkpoint).get("hop_length", 160))))
    if family.front != "wave" or config.get("add_adapter"):
        return 0
    kernels = config.get("conv_kernel") or (10, 3, 3, 3, 3, 2, 2)
    for kernel, stride in zip(kernels, config.get("conv_stride") or (5, 2, 2, 2, 2, 2, 2), strict=True):
        samples = (samples - kernel) // stride + 1
    return max(samples, 0)


def words(checkpoint: Checkpoint, family: Family, length: int) -> dict[str, Any]:
    """How text is fed: the most tokens of a text that are used (0 = as many as the model was made for)."""
    config = checkpoint.read("config.json")
    config = config.get("text_config") or config
    room = int(config.get("max_position_embeddings", family.positions))
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
