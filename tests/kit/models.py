"""Tiny transformers models with random weights, saved the way the hub stores them (for tests only)."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.encode import torchaudio_shim
from mmbal_cli.encode.pretrained import Pretrained

SIZE, RATE = 16, 16_000
_WIDTH: dict[str, Any] = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
_VISION = {**_WIDTH, "num_hidden_layers": 2, "image_size": SIZE, "patch_size": 8}
_TEXT = {**_WIDTH, "num_hidden_layers": 2, "vocab_size": 64}
_WAVE = {
    **_WIDTH,
    "num_hidden_layers": 2,
    "conv_dim": [8, 8, 8],
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 4],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}
_CLAP_AUDIO = {
    "spec_size": 64,
    "num_mel_bins": 16,
    "hidden_size": 32,
    "patch_embeds_hidden_size": 16,
    "depths": [1, 1],
    "num_attention_heads": [1, 2],
    "window_size": 4,
}
_POSITIONS = {"max_position_embeddings": 40, "pad_token_id": 1}
# family -> (class that is saved, configuration, settings of the configuration)
_MADE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", _WAVE),
    "wav2vec2-layer": (
        "Wav2Vec2Model",
        "Wav2Vec2Config",
        {**_WAVE, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True},
    ),
    "hubert": ("HubertModel", "HubertConfig", _WAVE),
    "wavlm": ("WavLMModel", "WavLMConfig", _WAVE),
    "wavlm-layer": ("WavLMModel", "WavLMConfig", {**_WAVE, "feat_extract_norm": "layer"}),
    "data2vec-audio": ("Data2VecAudioModel", "Data2VecAudioConfig", _WAVE),
    "unispeech-sat": ("UniSpeechSatModel", "UniSpeechSatConfig", _WAVE),
    "ast": (
        "ASTForAudioClassification",
        "ASTConfig",
        {**_VISION, "max_length": 32, "num_mel_bins": 16, "frequency_stride": 8, "time_stride": 8},
    ),
    "clap": ("ClapModel", "ClapConfig", {"audio_config": _CLAP_AUDIO, "text_config": _TEXT}),
    "clap-fused": (
        "ClapModel",
        "ClapConfig",
        {"audio_config": {**_CLAP_AUDIO, "enable_fusion": True}, "text_config": _TEXT},
    ),
    "clip": ("CLIPModel", "CLIPConfig", {"vision_config": _VISION, "text_config": _TEXT}),
    "clip-vision": ("CLIPVisionModel", "CLIPVisionConfig", _VISION),
    "dinov2": ("Dinov2Model", "Dinov2Config", _VISION),
    "dinov2-registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", _VISION),
    "vit": ("ViTForImageClassification", "ViTConfig", _VISION),
    "deit": ("DeiTForImageClassification", "DeiTConfig", _VISION),
    "siglip": ("SiglipModel", "SiglipConfig", {"vision_config": _VISION, "text_config": _TEXT}),
    "siglip-vision": ("SiglipVisionModel", "SiglipVisionConfig", _VISION),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    ),
    "convnext": ("ConvNextModel", "ConvNextConfig", {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
    "bert": ("BertForMaskedLM", "BertConfig", {**_TEXT, "max_position_embeddings": 40}),
    "distilbert": (
        "DistilBertModel",
        "DistilBertConfig",
        {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 64},
    ),
    "electra": ("ElectraModel", "ElectraConfig", {**_TEXT, "embedding_size": 16}),
    "mpnet": ("MPNetForMaskedLM", "MPNetConfig", {**_TEXT, **_POSITIONS}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**_TEXT, **_POSITIONS}),
    "xlm-roberta": ("XLMRobertaForMaskedLM", "XLMRobertaConfig", {**_TEXT, **_POSITIONS}),
}
AUDIO = tuple(_MADE)[:10]
FRAMES = tuple(_MADE)[10:20]
TEXT = tuple(_MADE)[20:]


def make_model(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Save a tiny `family` model with its preprocessor or tokenizer into `folder`, and return it."""
    torchaudio_shim.ensure()
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    name, config, settings = _MADE[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = getattr(transformers, name)(getattr(transformers, config)(**settings))
        for parameter in net.parameters():  # fresh models are nearly constant: make their outputs differ
            parameter.data += 0.1 * torch.randn_like(parameter)
    net.save_pretrained(folder)
    if family in FRAMES:
        _write(folder, "preprocessor_config.json", _pixels(family))
    elif family in AUDIO:
        _extractor(family).save_pretrained(folder)
    else:
        _tokenizer(folder, pad=1 if "pad_token_id" in settings else 0)
    return folder


def _pixels(family: str) -> dict[str, Any]:
    """The styles met on the hub: sizes as numbers or mappings, with and without a crop."""
    sizes: dict[str, dict[str, Any]] = {
        "clip": {"size": {"shortest_edge": 20}, "crop_size": {"height": SIZE, "width": SIZE}},
        "dinov2": {"size": {"shortest_edge": 20}, "crop_size": {"height": SIZE, "width": SIZE}},
        "vit": {"size": SIZE},
        "resnet": {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
        "convnext": {"size": {"shortest_edge": 32}},
    }
    scaling = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    return {"do_normalize": True, **scaling, **sizes.get(family, {"size": {"height": SIZE, "width": SIZE}})}


def _extractor(family: str) -> Any:
    import transformers

    if family == "ast":
        return transformers.ASTFeatureExtractor(max_length=32, num_mel_bins=16)
    if family.startswith("clap"):
        way = "fusion" if family == "clap-fused" else "rand_trunc"
        return transformers.ClapFeatureExtractor(
            feature_size=16, sampling_rate=RATE, max_length_s=1, fft_window_size=512, frequency_max=8000, truncation=way
        )
    return transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True)


def _tokenizer(folder: Path, pad: int) -> None:
    """One token a letter, written as a fast tokenizer's own file."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if pad == 0 else ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    vocabulary = {token: number for number, token in enumerate([*special, *string.ascii_lowercase, " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names})


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def kind_of(family: str) -> str:
    """The kind of modality a tiny model is tested with."""
    return "audio" if family in AUDIO else "video" if family in FRAMES else "text"


def samples(encoder: Pretrained) -> list[np.ndarray]:
    """A few unequal samples for an encoder, after its per-sample half."""
    rng = np.random.default_rng(0)
    if encoder.kind == "text":
        texts = ["a quiet street", "", "rain", "the dog barks at a man", "wind and rain " * 30]
        return [encoder.sample(text, {}) for text in texts]
    if encoder.kind == "audio":  # repeated lengths, one above the model's stretch, one of 20 ms
        return [encoder.sample(rng.normal(0, 0.1, n), {}) for n in (4000, 9000, 4000, 320, 20_000)]
    size = encoder.inputs["size"]
    return [encoder.sample(rng.integers(0, 256, (n, *size, 3)), {}) for n in (3, 3, 2, 3)]
