"""Stored features of real files equal a direct pass of the same model with its own processor, to 1e-5 in float32.

The reference (tests/kit/models.py) is plain transformers: `AutoImageProcessor` (its Pillow backend),
`AutoFeatureExtractor` or `AutoTokenizer`, then the model, one sample at a time, nothing of ours.
"""

from __future__ import annotations

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.encode import get_encoder, torchaudio_shim
from mmbal_cli.encode.pictures import PROCESSORS, picture_plan, processed
from mmbal_cli.encode.plan import plan
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.errors import EncoderError
from mmbal_cli.media.text import PAIR
from mmbal_cli.media.video import decode_video
from mmbal_cli.store.sets import read_arrays
from tests.kit import models
from tests.kit.lab import table
from tests.kit.media import write_clip, write_wav

Make = Callable[[str], Path]
TOLERANCE = 1e-5
SIZES = [(64, 48), (48, 64), (90, 32), (16, 16), (70, 71), (200, 120)]  # width, height
TEXTS = [
    "a quiet street",
    "rain",
    "the dog barks",
    "wind and rain " * 9,
    f"so sad{PAIR}paris",
    f"{'x y ' * 30}{PAIR}rome",
]


@pytest.fixture(autouse=True)
def importable() -> None:
    """Beside a CPU build of torch, transformers can be imported after this only."""
    torchaudio_shim.ensure()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of six samples with a clip, a sound, a picture and a text each."""
    root = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(3)
    rows = []
    for i, (width, height) in enumerate(SIZES):
        write_clip(root / f"{i}.mp4", frames=9 + i, size=(width // 2 * 2, height // 2 * 2), sound="", noise=90)
        write_wav(root / f"{i}.wav", rng.normal(0, 0.1, 1700 + 2500 * i).clip(-1, 1))
        pixels = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / (f"{i}.jpg" if i % 2 else f"{i}.png"))
        picture = f"{i}.jpg" if i % 2 else f"{i}.png"
        split = ("train", "train", "val", "val", "test", "test")[i]
        rows.append((f"s{i}", split, "xy"[i % 2], f"{i}.mp4", f"{i}.wav", picture, TEXTS[i]))
    table(root, "id,split,label,video:clip,audio:sound,image:still,text:words", rows)
    return root


def decoded(files: Path, kind: str, row: int, encoder: Any) -> Any:
    """A sample in the form that the model's own processor takes, read without our decoders where there are others."""
    if kind == "video":
        return decode_video(files / f"{row}.mp4", frames=encoder.frames, size=4096, fit="shortest")[0]
    if kind == "image":
        return np.asarray(Image.open(next(files.glob(f"{row}.[jp]*g"))).convert("RGB"))
    if kind == "text":
        return TEXTS[row]
    with wave.open(str(files / f"{row}.wav")) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


@pytest.mark.parametrize(
    "chosen",
    [
        {"clip": "clip", "sound": "wavlm", "still": "dinov2", "words": "bert"},
        {"clip": "videomae", "sound": "ast", "still": "clip", "words": "roberta"},
        {"clip": "dinov2", "sound": "clap", "still": "resnet", "words": "distilbert"},
        {"clip": "siglip", "sound": "whisper", "still": "deit", "words": "mpnet"},
        {"clip": "convnext", "sound": "wav2vec2-layer", "still": "vit", "words": "electra"},
    ],
    ids=lambda chosen: "-".join(chosen.values()),
)
def test_stored_features_equal_the_models_own_pass(
    chosen: dict[str, str], files: Path, made: Make, tmp_path: Path
) -> None:
    manifest = read_manifest(files / "t.csv")
    encoders = {m: get_encoder(str(made(family)), manifest.kinds[m], device="cpu") for m, family in chosen.items()}
    outcome = prepare(plan(manifest, encoders, tmp_path, chunk=4, dtype="float32"))
    stored = read_arrays(tmp_path, outcome.prepared)["features"]
    for m, family in chosen.items():
        kind, encoder = manifest.kinds[m], encoders[m]
        wanted = [models.reference(made(family), encoder, decoded(files, kind, i, encoder)) for i in range(len(SIZES))]
        assert stored[m].dtype == np.float32
        np.testing.assert_allclose(stored[m], np.stack(wanted), atol=TOLERANCE, rtol=0)
        assert np.ptp(stored[m], axis=0).max() > 100 * TOLERANCE


def test_a_crop_of_the_centre_matters(files: Path, made: Make) -> None:
    """The comparison above would notice a squashed picture."""
    encoder = get_encoder(str(made("clip")), "image", device="cpu")
    raw = decoded(files, "image", 2, encoder)
    squashed = np.asarray(Image.fromarray(raw).resize((16, 16), Image.Resampling.BICUBIC))
    features, _ = encoder.batch([encoder.sample(raw, {}), squashed])
    assert np.abs(features[0] - features[1]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", models.FRAMES)
def test_pixels_are_those_of_the_models_own_processor(family: str, made: Make) -> None:
    import torch
    import transformers

    encoder: Any = get_encoder(str(made(family)), "video", device="cpu")
    own = transformers.AutoImageProcessor.from_pretrained(made(family), backend="pil")
    for raw in models.raws(encoder):
        given = own([list(raw)] if family == "videomae" else list(raw), return_tensors="np")["pixel_values"]
        wanted = given[0] if family == "videomae" else given
        found = encoder.model._pixels(torch.from_numpy(encoder.sample(raw, {})).float()).numpy()
        np.testing.assert_allclose(found, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("processor", sorted(PROCESSORS))
@pytest.mark.parametrize("size", [(300, 400), (401, 230), (224, 224), (40, 31), (999, 8)])
def test_processors_without_settings_are_those_of_transformers(processor: str, size: tuple[int, int]) -> None:
    """Defaults of each class, at their own sizes, from small and extreme pictures."""
    import importlib

    name = {"clip": "CLIP", "bit": "Bit", "vit": "ViT", "deit": "DeiT"} | {"siglip": "Siglip", "convnext": "ConvNext"}
    module = importlib.import_module(f"transformers.models.{processor}.image_processing_pil_{processor}")
    own = getattr(module, f"{name.get(processor, 'VideoMAE')}ImageProcessorPil")()
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    steps = picture_plan({}, processor)
    wanted = own([[picture]] if processor == "videomae" else picture, return_tensors="np")["pixel_values"]
    pixels = processed(picture, steps).astype(np.float32) * np.float32(steps["scale"])
    found = (pixels - np.float32(steps["mean"])) / np.float32(steps["std"])
    np.testing.assert_allclose(found, np.squeeze(wanted).transpose(1, 2, 0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 2_000_000, 3), (2_000_000, 1, 3)])
def test_a_picture_that_is_all_length_is_refused_before_it_fills_the_memory(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="too long"):
        processed(np.zeros(shape, np.uint8), picture_plan({}, "clip"))
    assert processed(np.zeros(shape, np.uint8), picture_plan({}, "vit")).shape == (224, 224, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"size": {"height": 20, "width": 10}, "do_center_crop": True, "crop_size": {"height": 24, "width": 8}},
        {"size": [12, 18], "do_rescale": False},
        {"do_resize": False, "do_center_crop": True, "crop_size": 30, "do_normalize": False},
        {"size": {"shortest_edge": 15}, "do_center_crop": True, "crop_size": 15, "resample": 0},
        {"size": 9, "resample": 1, "rescale_factor": 0.5},
    ],
)
def test_settings_change_a_processor_as_they_do_in_transformers(settings: dict[str, Any]) -> None:
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    picture = np.random.default_rng(0).integers(0, 256, (37, 26, 3)).astype(np.uint8)
    steps = picture_plan({**settings, "image_processor_type": "ViTImageProcessor"}, "clip")
    wanted = ViTImageProcessorPil(**settings)(picture, return_tensors="np")["pixel_values"][0]
    pixels = processed(picture, steps).astype(np.float32) * np.float32(steps["scale"])
    found = (pixels - np.float32(steps["mean"])) / np.float32(steps["std"])
    np.testing.assert_allclose(found, wanted.transpose(1, 2, 0), atol=2e-5, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"image_processor_type": "MagicImageProcessor"}, r"'MagicImageProcessor' is not known.*clip"),
        ({"size": {"shortest_edge": 20}, "do_center_crop": False}, "no fixed size"),
        ({"crop_size": {"height": 0, "width": 5}}, "no fixed size"),
        ({"size": {"longest_edge": 20}, "do_center_crop": False}, "no fixed size"),
        ({"crop_size": "large"}, None),
        ({"size": {"shortest_edge": 10**9}}, "no fixed size"),
    ],
)
def test_settings_that_give_no_fixed_size_are_refused(settings: dict[str, Any], says: str | None) -> None:
    if says is None:  # not understood: the processor's own default
        assert picture_plan(settings, "clip")["crop"] == [224, 224]
        return
    with pytest.raises(EncoderError, match=says):
        picture_plan(settings, "clip")
