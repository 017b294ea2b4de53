"""Pretrained encoders on tiny models of every family, built here and loaded through the real path."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from mmbal_cli.encode import get_encoder
from mmbal_cli.encode.pretrained import Pretrained
from mmbal_cli.errors import DeviceError, EncoderError, RecipeError
from tests.kit import models
from tests.kit.models import kind_of, samples

Make = Callable[[str], Path]
TOLERANCE = 1e-5


@pytest.mark.parametrize("family", [*models.AUDIO, *models.FRAMES, *models.TEXT])
def test_every_family_equals_plain_transformers_whatever_the_batch(family: str, made: Make) -> None:
    encoder = get_encoder(str(made(family)), kind_of(family), batch=3)
    assert isinstance(encoder, Pretrained)
    rows = samples(encoder)
    features, mask = encoder.batch(rows)
    assert features.dtype == np.float32
    assert mask.shape == (len(rows),)
    assert mask.all()
    alone = np.stack([models.reference(made(family), encoder, raw) for raw in models.raws(encoder)])
    np.testing.assert_allclose(features, alone, atol=TOLERANCE)
    assert np.ptp(features, axis=0).max() > 10 * TOLERANCE  # the inputs are told apart
    again, _ = Pretrained(str(made(family)), kind_of(family), batch=3).batch(rows)
    assert np.array_equal(features, again)
    backwards, _ = encoder.batch(rows[::-1])
    np.testing.assert_allclose(features, backwards[::-1], atol=TOLERANCE)


def test_frames_pool_keeps_time_and_masks_a_short_clip(made: Make) -> None:
    encoder = Pretrained(str(made("clip")), "video", pool="frames", frames=3)
    rows = samples(encoder)
    features, mask = encoder.batch(rows)
    assert features.shape == (4, 3, 16)
    assert mask.tolist() == [[True] * 3, [True] * 3, [True, True, False], [True] * 3]
    assert not features[2, 2].any()
    means, _ = Pretrained(str(made("clip")), "video").batch(rows)
    np.testing.assert_allclose(features[0].mean(0), means[0], atol=TOLERANCE)


def test_an_image_is_a_clip_of_one_frame(made: Make) -> None:
    image, video = (Pretrained(str(made("vit")), kind) for kind in ("image", "video"))
    frame = samples(image)[0][0]
    assert np.array_equal(image.batch([frame])[0], video.batch([frame[None]])[0])
    assert image.decode() == {"size": 1080, "fit": "shortest"}
    assert video.decode() == {"size": 1080, "fit": "shortest", "frames": 8}


@pytest.mark.parametrize("family", ["wav2vec2", "wav2vec2-layer", "wavlm-layer", "bert", "roberta"])
def test_tokens_pool_has_one_length_and_masks_the_rest(family: str, made: Make) -> None:
    limit = {"seconds": 0.5} if kind_of(family) == "audio" else {"length": 12}
    encoder = Pretrained(str(made(family)), kind_of(family), pool="tokens", **limit)
    rows = samples(encoder)
    features, mask = encoder.batch(rows)
    assert features.shape[:2] == mask.shape
    assert mask[-1].all()  # the last sample is longer than the limit
    assert not mask[0 if "seconds" in limit else 1].all()
    assert not features[~mask].any()
    means, _ = Pretrained(str(made(family)), kind_of(family), **limit).batch(rows)
    mean = (features * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    np.testing.assert_allclose(mean, means, atol=TOLERANCE)


def test_text_cls_is_the_first_token(made: Make) -> None:
    rows = samples(Pretrained(str(made("bert")), "text"))
    first, _ = Pretrained(str(made("bert")), "text", pool="cls").batch(rows)
    tokens, _ = Pretrained(str(made("bert")), "text", pool="tokens").batch(rows)
    np.testing.assert_allclose(first, tokens[:, 0], atol=TOLERANCE)


@pytest.mark.parametrize(("family", "pool"), [("bert", "cls"), ("clip", "mean"), ("ast", "cls"), ("hubert", "mean")])
def test_an_inner_layer(family: str, pool: str, made: Make) -> None:
    kind = kind_of(family)
    rows = samples(Pretrained(str(made(family)), kind))
    by_layer = {n: Pretrained(str(made(family)), kind, pool=pool, layer=n).batch(rows)[0] for n in (-1, -2, 1)}
    assert np.array_equal(by_layer[1], by_layer[-2])  # two layers and the embedding
    assert not np.allclose(by_layer[1], by_layer[-1])
    with pytest.raises(EncoderError, match=r"no layer 7.*-3 to 2"):
        Pretrained(str(made(family)), kind, pool=pool, layer=7).batch(rows)


@pytest.mark.parametrize(
    ("family", "inputs"),
    [
        ("clip", {"resize": {"shortest_edge": 20}, "crop": [16, 16], "resample": 3, "size": [16, 16]}),
        ("vit", {"resize": {"height": 16, "width": 16}, "crop": None, "resample": 2, "size": [16, 16]}),
        ("resnet", {"resize": {"shortest_edge": 36}, "crop": [32, 32], "resample": 3, "size": [32, 32]}),
        ("wav2vec2", {"rate": 16_000, "seconds": 30.0}),
        ("ast", {"rate": 16_000, "seconds": 0.335}),  # 32 frames
        ("clap", {"rate": 16_000, "seconds": 1.0}),
        ("bert", {"length": 40}),
        ("roberta", {"length": 38}),  # its positions start behind the padding token
        ("clip-text", {"length": 24}),
        ("whisper", {"rate": 16_000, "seconds": 1.0}),
    ],
)
def test_feeding_is_read_from_the_checkpoint(family: str, inputs: dict[str, Any], made: Make) -> None:
    scaling = {"scale": 1 / 255, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    wanted = inputs | (scaling if family in models.FRAMES else {})
    assert Pretrained(str(made(family)), kind_of(family)).inputs == wanted


def test_settings_nested_in_processor_config_are_read(copied: Make) -> None:
    folder = copied("vit")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EncoderError, match=r"no preprocessor_config\.json"):
        Pretrained(str(folder), "video").spec()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    assert Pretrained(str(folder), "video").inputs["size"] == [16, 16]


def test_construction_spec_and_sample_need_no_torch(made: Make) -> None:
    code = f"""
import sys, numpy as np
from mmbal_cli.encode import get_encoder
for name, kind, raw in (({str(made("clip"))!r}, "video", np.zeros((2, 16, 16, 3), np.uint8)),
                        ({str(made("hubert"))!r}, "audio", np.zeros(99, np.float32)),
                        ({str(made("bert"))!r}, "text", "rain")):
    encoder = get_encoder(name, kind)
    encoder.spec(), encoder.decode(), encoder.sample(raw, {{}})
    assert get_encoder(name, kind, **encoder.params).spec() == encoder.spec()
assert not {{"torch", "transformers", "torchaudio", "h5py"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_spec_follows_weights_files_and_parameters_but_not_the_place(copied: Make, tmp_path: Path) -> None:
    folder = copied("bert")
    plain = Pretrained(str(folder), "text").spec()
    assert plain == json.loads(json.dumps(plain))
    assert str(tmp_path) not in json.dumps(plain)
    moved = Path(shutil.copytree(folder, tmp_path / "elsewhere"))
    assert Pretrained(str(moved), "text", device="cpu", batch=7).spec() == plain
    others: list[dict[str, Any]] = [
        {"layer": 1},
        {"pool": "cls"},
        {"length": 9},
        {"precision": "bfloat16"},
    ]
    seen = [plain, *(Pretrained(str(folder), "text", **other).spec() for other in others)]
    weights = load_file(moved / "model.safetensors")
    name = "bert.encoder.layer.0.output.dense.bias"
    save_file(weights | {name: weights[name] + 1}, moved / "model.safetensors", {"format": "pt"})
    seen.append(Pretrained(str(moved), "text").spec())
    with (moved / "tokenizer.json").open("a") as file:
        file.write("\n")
    seen.append(Pretrained(str(moved), "text").spec())
    assert all(seen[i] != seen[k] for i in range(len(seen)) for k in range(i))


def test_the_mini_batch_is_halved_when_memory_runs_out(made: Make) -> None:
    import torch

    encoder = Pretrained(str(made("clip")), "video", batch=8)
    rows = samples(encoder)
    expected, _ = encoder.batch(rows)
    room, sizes = 3, list[int]()

    def small_memory(module: Any, given: Any, named: dict[str, Any]) -> None:
        if (size := len(named["pixel_values"])) > room:
            raise torch.OutOfMemoryError
        sizes.append(size)

    encoder.model.net.register_forward_pre_hook(small_memory, with_kwargs=True)
    np.testing.assert_allclose(encoder.batch(rows)[0], expected, atol=TOLERANCE)
    assert max(sizes) <= room
    assert encoder.model.size <= room  # and stays small
    room = 0
    with pytest.raises(EncoderError, match="does not fit"):
        encoder.batch(rows)


@pytest.mark.parametrize("family", ["wav2vec2", "clip", "bert"])
def test_half_precision_is_close_and_gives_float32(family: str, made: Make) -> None:
    exact, half = (Pretrained(str(made(family)), kind_of(family), precision=p) for p in ("float32", "bfloat16"))
    rows = samples(exact)
    expected, got = exact.batch(rows)[0], half.batch(rows)[0]
    assert got.dtype == np.float32
    assert 0 < np.abs(got - expected).max() < 0.1


def test_torchaudio_can_be_imported_and_the_shim_changes_nothing_twice() -> None:
    code = """
from mmbal_cli.encode import torchaudio_shim
first = torchaudio_shim.ensure()
import torch, torchaudio
from torchaudio.compliance.kaldi import fbank
assert fbank(torch.ones(1, 4000)).shape == (23, 23)
assert torchaudio_shim.ensure() == first
import torchaudio as again
assert again is torchaudio
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_wrong_parameters(made: Make) -> None:
    name = str(made("clip"))
    for wrong in ({"pool": "men"}, {"precision": "int8"}, {"frames": -1}, {"layer": 1.5}, {"length": 3}):
        with pytest.raises(RecipeError):
            Pretrained(name, "video", **wrong)
    with pytest.raises(EncoderError, match=r"no pool 'cls'.*frames, mean"):
        Pretrained(str(made("resnet")), "video", pool="cls").spec()
    with pytest.raises(EncoderError, match="no pool 'frames' for image"):
        Pretrained(name, "image", pool="frames").spec()
    with pytest.raises(EncoderError, match="last layer only"):
        Pretrained(str(made("resnet")), "video", layer=1).spec()
    with pytest.raises(EncoderError, match="failed on a batch"):
        Pretrained(name, "video").batch([np.zeros((1, 24, 24, 3), np.uint8)])


def test_a_device_that_is_not_there(made: Make) -> None:
    row = np.zeros((1, 16, 16, 3), np.uint8)
    with pytest.raises(DeviceError, match="no GPU 'cuda:99'"):
        Pretrained(str(made("clip")), "video", device="cuda:99").batch([row])
    with pytest.raises(DeviceError, match="no device 'abacus'"):
        Pretrained(str(made("clip")), "video", device="abacus").batch([row])


def test_numbers_that_are_not_finite_are_refused(copied: Make) -> None:
    folder = copied("vit")
    weights = load_file(folder / "model.safetensors")
    name = next(key for key in weights if key.endswith("layernorm.bias"))
    save_file(weights | {name: weights[name] + np.nan}, folder / "model.safetensors", {"format": "pt"})
    encoder = Pretrained(str(folder), "video")
    with pytest.raises(EncoderError, match="not finite"):
        encoder.batch(samples(encoder))
