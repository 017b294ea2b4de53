"""The torch half of a pretrained encoder: one loaded model, its feature extractor or tokenizer, a device.

Imported when the first batch is encoded, never by the decoding children.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import transformers

from mmbal_cli.encode import torchaudio_shim
from mmbal_cli.encode.families import Family, padded
from mmbal_cli.encode.hub import Checkpoint
from mmbal_cli.errors import DeviceError, EncoderError
from mmbal_cli.media.text import PAIR

# units at once: on a CPU, on a GPU
SIZES = {"frames": (8, 128), "text": (8, 128), "clip": (1, 8)}
USUAL = (8, 16)
UNUSED = ("masked_spec_embed",)  # the mask vector of wav2vec2-like training, absent from many checkpoints


class Model:
    """A loaded model on its device; `whole` encodes any number of frames, clips of frames, waves or texts."""

    def __init__(self, checkpoint: Checkpoint, use: tuple[str, Family, str], inputs: Mapping, params: Mapping) -> None:
        _, self.family, pool = use
        self.inputs, self.layer = inputs, params["layer"]
        self.name = checkpoint.name if checkpoint.revision else str(checkpoint.folder)
        self.how = self.family.pools[pool][self.layer != -1]
        self.device, self.precision = _placed(params["device"], params["precision"])
        self.size = params["batch"] or SIZES.get(self.family.front, USUAL)[self.device.type != "cpu"]
        checkpoint.weights()  # refuses a folder of pickles before transformers is asked
        try:
            self.net, report = _load(checkpoint, self.family)
            self.reader = _reader(checkpoint, self.family)
        except Exception as error:  # safetensors, tokenizers and transformers raise kinds of their own
            raise EncoderError(
                f"{self.name} could not be loaded: {_first_line(error)}", "", "Fetch the model again."
            ) from error
        _complete(self.name, self.family, report)
        self.net = getattr(self.net, self.family.part) if self.family.part else self.net
        self.net.to(self.device).eval()
        deepest = getattr(self.net.config, "num_hidden_layers", 0)
        if not -deepest - 1 <= self.layer <= deepest:
            raise EncoderError(f"{self.name} has no layer {self.layer}.", f"Expected {-deepest - 1} to {deepest}.")
        # Only these mask padding fully; a group norm over time or an adapter sees that of its neighbours,
        # so any other waveform model gets clips of one length at a time.
        config = self.net.config
        self.prefix = self.family.prefix + getattr(config, "num_register_tokens", 0)
        self.roles = getattr(config, "type_vocab_size", 0) > 1 and "token_type_ids" in _arguments(self.net)
        masks = getattr(config, "feat_extract_norm", "") == "layer" and not getattr(config, "add_adapter", False)
        self.one_length = self.family.front == "wave" and not masks

    def whole(self, units: list[Any]) -> tuple[np.ndarray, np.ndarray]:
        """Units (frames, clips, waves or texts) -> (float32 [n,F], mask [n]), or [n,T,F] and [n,T] for tokens."""
        results: list[Any] = [None] * len(units)
        for chosen in self._bundles([len(unit) for unit in units]):
            for index, result in zip(chosen, self._careful([units[i] for i in chosen]), strict=True):
                results[index] = result
        if not all(np.isfinite(result).all() for result in results):
            raise EncoderError(
                f"{self.name} gave numbers that are not finite.", "", "Try the parameter precision=float32."
            )
        if results[0].ndim == 2:
            return padded(results, self._most_tokens() or len(results[0]))
        return np.stack(results), np.ones(len(results), bool)

    def _bundles(self, lengths: list[int]) -> Iterator[list[int]]:
        """Mini-batches of neighbours in length, so that little is padded."""
        chosen: list[int] = []
        for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            other = chosen and self.one_length and lengths[chosen[0]] != lengths[index]
            if other or len(chosen) >= self.size:
                yield chosen
                chosen = []
            chosen.append(index)
        if chosen:
            yield chosen

    def _careful(self, units: list[Any]) -> list[np.ndarray]:
        """Half the mini-batch when memory runs out, and from then on."""
        try:
            return self._forward(units)
        except torch.OutOfMemoryError as error:
            if len(units) == 1:
                raise EncoderError(
                    f"One input does not fit on {self.device}.", "", "Use --device cpu or a smaller model."
                ) from error
        except (AttributeError, RuntimeError, ValueError) as error:
            raise EncoderError(f"{self.name} failed on a batch: {_first_line(error)}") from error
        # Outside the except clause: the traceback would keep the tensors of the failed attempt alive.
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.size = half = len(units) // 2
        return [*self._careful(units[:half]), *self._careful(units[half:])]

    def _forward(self, units: list[Any]) -> list[np.ndarray]:
        casting = self.precision != torch.float32
        with torch.inference_mode(), torch.autocast(self.device.type, self.precision, enabled=casting):
            given = {key: value.to(self.device) for key, value in self._fed(units).items()}
            if "pixel_values" in given:
                given = {"pixel_values": self._pixels(given["pixel_values"].float())}
            mask = given.get("attention_mask")
            if self.one_length:
                del given["attention_mask"]
            out = self.net(**given, output_hidden_states=self.layer != -1)
            tokens = out.last_hidden_state if self.layer == -1 else out.hidden_states[self.layer]
            if mask is not None and self.family.front == "wave":
                mask = self.net._get_feature_vector_attention_mask(tokens.shape[1], mask)
            if self.family.front == "mel":  # it always sees its whole stretch: only what holds sound counts
                mask = _first(units, 2 * self.reader.hop_length, tokens)
            if self.how == "tubes":
                steps = given["pixel_values"].shape[1] // self.net.config.tubelet_size
                tokens = tokens.unflatten(1, (steps, -1)).float().mean(2)
        return _taken(self.how, out, tokens, mask, self.prefix)

    def _fed(self, units: list[Any]) -> dict[str, torch.Tensor]:
        """The model's inputs, on the CPU."""
        front = self.family.front
        if front in ("frames", "clip"):
            return {"pixel_values": torch.from_numpy(np.stack(units))}
        if front == "text":
            return self._read(units)
        # One clip at a time: some extractors treat a clip by its neighbours, or draw a random crop among them.
        key = "input_features" if front in ("clap", "mel") else "input_values"
        rate = self.inputs["rate"]
        each = [np.asarray(self.reader(unit, sampling_rate=rate, return_tensors="np")[key][0]) for unit in units]
        if front == "wave":
            waves, mask = padded([wave[:, None] for wave in each], max(map(len, each)))
            return {key: torch.from_numpy(waves[..., 0]), "attention_mask": torch.from_numpy(mask).long()}
        given = {key: torch.from_numpy(np.stack(each).astype(np.float32))}
        # Clips are cut to the model's stretch, so none is "longer"; the extractor would mark one at random.
        return given | ({"is_longer": torch.zeros(len(each), 1, dtype=torch.bool)} if front == "clap" else {})

    def _read(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """Token numbers, mask and, where the model has them, which of two texts a token is of."""
        how = {"truncation": True, "max_length": self.inputs["length"]}  # of a pair the longer text is cut
        each = []
        for text in texts:
            first, pair, second = text.partition(PAIR)
            if pair and self.family.pairs:
                each.append(self.reader(first, second, **how))
            else:
                each.append(self.reader(f"{first} {second}" if pair else text, **how))
        read = self.reader.pad(each, padding=True, return_tensors="pt")
        wanted = ["input_ids", "attention_mask", *(["token_type_ids"] if self.roles else [])]
        return {key: read[key] for key in wanted if key in read}

    def _pixels(self, frames: torch.Tensor) -> torch.Tensor:
        mean, std = (frames.new_tensor(self.inputs[key]) for key in ("mean", "std"))
        return ((frames * self.inputs["scale"] - mean) / std).movedim(-1, -3)  # [...,H,W,3] -> [...,3,H,W]

    def _most_tokens(self) -> int:
        """Rows of every sample where their number varies, else 0."""
        if self.family.front == "text":
            return int(self.inputs["length"])
        samples = int(self.inputs.get("seconds", 0) * self.inputs.get("rate", 0))
        if self.family.front == "mel":
            return -(-samples // (2 * self.reader.hop_length))
        if self.family.front != "wave":
            return 0
        return int(self.net._get_feat_extract_output_lengths(torch.tensor(samples)))


def _placed(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    seen = torch.cuda.is_available()
    if device == "auto":
        device = "cuda" if seen else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError as error:
        raise DeviceError(f"There is no device '{device}'.", "Expected auto, cpu, cuda or cuda:N.") from error
    if place.type == "cuda" and not (seen and (place.index or 0) < torch.cuda.device_count()):
        raise DeviceError(f"There is no GPU '{device}' here.", "", "Use --device cpu or --device auto.")
    if precision == "auto":
        half = "bfloat16" if seen and torch.cuda.is_bf16_supported() else "float16"
        precision = half if place.type == "cuda" else "float32"
    return place, getattr(torch, precision)


def _load(checkpoint: Checkpoint, family: Family) -> tuple[Any, dict[str, Any]]:
    torchaudio_shim.ensure()  # before a model class is touched: transformers imports them lazily
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")  # WavLM's own call of torch
    net, report = getattr(transformers, family.model).from_pretrained(
        checkpoint.folder,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # reported by name instead of a bare refusal; `_complete` refuses
        dtype=torch.float32,
        **family.load,
    )
    return net, report


def _reader(checkpoint: Checkpoint, family: Family) -> Any:
    fixed = {"local_files_only": True, "trust_remote_code": False}
    if family.front in ("frames", "clip"):
        return None
    if family.front == "text":
        # Padding on the right: on the left it would move the position numbers.
        return transformers.AutoTokenizer.from_pretrained(checkpoint.folder, padding_side="right", **fixed)
    return transformers.AutoFeatureExtractor.from_pretrained(checkpoint.folder, **fixed)


def _complete(name: str, family: Family, report: Mapping[str, Any]) -> None:
    lacking = [key for key in report["missing_keys"] if not key.endswith(UNUSED)]
    lacking = sorted(key for key in lacking if key.startswith(family.part))
    differing = [_named(entry) for entry in [*report["mismatched_keys"], *report["error_msgs"]]]
    if wrong := lacking + differing:
        raise EncoderError(
            f"{name} lacks weights that {family.model} uses: {', '.join(wrong[:3])} ({len(wrong)} in all).",
            "They would be random numbers.",
            "Fetch a checkpoint that holds the whole model.",
        )


def _named(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    name, stored, expected = entry
    return f"{name} is {list(stored)}, not {list(expected)}"


def _arguments(net: Any) -> Any:
    return inspect.signature(net.forward).parameters


def _first(waves: list[np.ndarray], samples: int, tokens: torch.Tensor) -> torch.Tensor:
    """Mask bool [B,T] of the tokens that cover sound, `samples` samples each."""
    lengths = torch.tensor([-(-len(wave) // samples) for wave in waves], device=tokens.device)
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]


def _taken(how: str, out: Any, tokens: torch.Tensor, mask: torch.Tensor | None, prefix: int) -> list[np.ndarray]:
    """Vectors [F] or token rows [L,F] of each input, float32 on the CPU."""
    if how == "pooler":
        taken = out.pooler_output.flatten(1)
    elif how == "cls":
        taken = tokens[:, 0]
    elif how == "cls2":
        taken = tokens[:, :2].float().mean(1)
    elif how == "patches":
        taken = tokens[:, prefix:].float().mean(1)
    elif how == "mean" and mask is None:
        taken = tokens.float().mean(1)
    elif how == "mean" and mask is not None:
        valid = mask[..., None].float()
        taken = (tokens.float() * valid).sum(1) / valid.sum(1)
    else:
        tokens = tokens.flatten(2).mT if how == "map" else tokens  # [B,C,H,W] -> [B,H*W,C]
        rows = tokens.float().cpu().numpy()
        return list(rows) if mask is None else [r[m] for r, m in zip(rows, mask.bool().cpu().numpy(), strict=True)]
    return list(taken.float().cpu().numpy())


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
