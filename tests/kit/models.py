"""Tiny transformers models with random weights, saved the way the hub stores them (for tests only)."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.encode import torchaudio_shim
from mmbal_cli.encode.families import FAMILIES
from mmbal_cli.encode.pretrained import Pretrained
from mmbal_cli.media.text import PAIR

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
_WHISPER: dict[str, Any] = {
    "d_model": 16,
    "vocab_size": 64,
    "num_mel_bins": 16,
    "max_source_positions": 50,  # of 20 ms: one second
    "max_target_positions": 8,
    **dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0),
}
_VIDEOMAE = {**_VISION, "num_frames": 4, "tubelet_size": 2, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
_POSITIONS = {"max_position_embeddings": 40, "pad_token_id": 1}
_CLIP_TEXT = {**_TEXT, "max_position_embeddings": 24, **dict.fromkeys(("bos_token_id", "pad_token_id"), 0)}
_CLIP_TEXT["eos_token_id"] = 3
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
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", _WHISPER),
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
    "videomae": ("VideoMAEForPreTraining", "VideoMAEConfig", {**_VIDEOMAE, "decoder_num_attention_heads": 2}),
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
    "clip-text": ("CLIPModel", "CLIPConfig", {"vision_config": _VISION, "text_config": _CLIP_TEXT}),
}
_NAMES = list(_MADE)
AUDIO = tuple(_NAMES[: _NAMES.index("clip")])
FRAMES = tuple(_NAMES[_NAMES.index("clip") : _NAMES.index("bert")])  # videomae: clips of frames
TEXT = tuple(_NAMES[_NAMES.index("bert") :])


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
        _tokenizer(folder, family, pad=1 if "pad_token_id" in settings else 0)
    return folder


def _pixels(family: str) -> dict[str, Any]:
    """The styles met on the hub: with and without the processor's name, sizes as numbers or mappings, crops."""
    square = {"height": SIZE, "width": SIZE}
    styles: dict[str, dict[str, Any]] = {
        "clip": {"feature_extractor_type": "CLIPFeatureExtractor", "size": 20, "crop_size": SIZE, "resample": 3},
        "clip-vision": {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": SIZE},
            "crop_size": square,
        },
        "dinov2": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 20}, "crop_size": square},
        "dinov2-registers": {
            "image_processor_type": "BitImageProcessorFast",
            "size": {"shortest_edge": 20},
            "crop_size": SIZE,
            "resample": 2,
        },
        "vit": {"feature_extractor_type": "ViTFeatureExtractor", "size": SIZE, "resample": 2},
        "deit": {"size": 20, "crop_size": SIZE, "resample": 3, "do_center_crop": True},
        "siglip": {"image_processor_type": "SiglipImageProcessor", "size": square, "resample": 3},
        "siglip-vision": {"image_processor_type": "SiglipImageProcessorFast", "size": square},
        "resnet": {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 32, "crop_pct": 0.875},
        "convnext": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 32}, "resample": 3},
        "videomae": {"feature_extractor_type": "VideoMAEFeatureExtractor", "size": 18, "crop_size": square},
    }
    scaling = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4], "rescale_factor": 1 / 255}
    return {"do_normalize": True, **scaling, **styles[family]}


def _extractor(family: str) -> Any:
    import transformers

    if family == "ast":
        return transformers.ASTFeatureExtractor(max_length=32, num_mel_bins=16)
    if family.startswith("clap"):
        way = "fusion" if family == "clap-fused" else "rand_trunc"
        return transformers.ClapFeatureExtractor(
            feature_size=16, sampling_rate=RATE, max_length_s=1, fft_window_size=512, frequency_max=8000, truncation=way
        )
    if family == "whisper":
        return transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
    return transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE, do_normalize=True)


def _tokenizer(folder: Path, family: str, pad: int) -> None:
    """One token a letter, written as a fast tokenizer's own file, with a form for two texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"] if pad == 0 else ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]
    if family == "clip-text":
        special = ["[PAD]", "[CLS]", "[UNK]", "[SEP]"]
    vocabulary = {token: number for number, token in enumerate([*special, *string.ascii_lowercase, " "])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    both = "[CLS] $A [SEP] $B:1 [SEP]:1"
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", pair=both, special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    roles = ["token_type_ids"] if family in ("bert", "electra") else []
    inputs = {"model_input_names": ["input_ids", *roles, "attention_mask"]}
    _write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **names, **inputs})


def _write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def kind_of(family: str) -> str:
    """The kind of modality a tiny model is tested with."""
    return "audio" if family in AUDIO else "video" if family in FRAMES else "text"


def reference(folder: Path, encoder: Pretrained, raw: Any) -> np.ndarray:
    """One sample (as decoded) through plain transformers: its own processor, then the model, and the default pool."""
    torchaudio_shim.ensure()
    import torch
    import transformers

    family = FAMILIES[encoder.spec()["family"]]
    net = getattr(transformers, family.model).from_pretrained(folder, **family.load).eval()
    with torch.inference_mode():
        if encoder.kind == "text":
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            length = encoder.inputs["length"]
            given = tokenizer(*raw.split(PAIR), truncation=True, max_length=length, return_tensors="pt")
            out = net(**given)
            return (out.last_hidden_state[0].mean(0) if family.pairs else out.pooler_output[0]).numpy()
        if encoder.kind in ("video", "image"):
            return _seen(folder, net, raw)
        return _heard(folder, family, net, raw, float(encoder.inputs["seconds"]))


def _seen(folder: Path, net: Any, raw: np.ndarray) -> np.ndarray:
    import transformers

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pictures = list(raw) if raw.ndim == 4 else [raw]
    pixels = processor([pictures] if net.config.model_type == "videomae" else pictures, return_tensors="pt")
    out = net(**pixels)
    if net.config.model_type == "videomae":
        return out.last_hidden_state.mean(1)[0].numpy()
    pooler = getattr(out, "pooler_output", None)
    return (out.last_hidden_state[:, 0] if pooler is None else pooler.flatten(1)).mean(0).numpy()


def _heard(folder: Path, family: Any, net: Any, raw: np.ndarray, seconds: float) -> np.ndarray:
    import torch
    import transformers

    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    wave = np.pad(raw, (0, max(0, 1600 - len(raw))))[: int(seconds * RATE)]
    given = extractor(wave, sampling_rate=RATE, return_tensors="pt")
    if family.part == "audio_model":
        longer = torch.zeros(1, 1, dtype=torch.bool)
        return net.audio_model(given["input_features"], is_longer=longer).pooler_output[0].numpy()
    if family.part == "encoder":  # Whisper: one token for 320 samples; what follows is padding
        tokens = net.encoder(given["input_features"]).last_hidden_state[0]
        return tokens[: -(-len(wave) // 320)].mean(0).numpy()
    out = net(given["input_values"])
    pooled = getattr(out, "pooler_output", None)
    return (out.last_hidden_state.mean(1) if pooled is None else pooled)[0].numpy()


def raws(encoder: Pretrained) -> list[Any]:
    """A few unequal samples for an encoder, as the decoder gives them."""
    rng = np.random.default_rng(0)
    if encoder.kind == "text":
        return ["a quiet street", "", "rain", "the dog barks at a man", "wind and rain " * 30]
    if encoder.kind == "audio":  # repeated lengths, one above the model's stretch, one of 20 ms
        return [rng.normal(0, 0.1, n).astype(np.float32) for n in (4000, 9000, 4000, 320, 20_000)]
    frames = [4] * 4 if encoder.use[1].front == "clip" else [3, 3, 2, 3]
    sizes = [(37, 50), (50, 37), tuple(encoder.inputs["size"]), (21, 90)]
    return [rng.integers(0, 256, (n, *size, 3)).astype(np.uint8) for n, size in zip(frames, sizes, strict=True)]


def samples(encoder: Pretrained) -> list[np.ndarray]:
    """The same after the encoder's per-sample half."""
    return [encoder.sample(raw, {}) for raw in raws(encoder)]
