"""Layers, pools, windows, pairs of texts and the seconds of each stored step of pretrained encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmbal_cli.data.manifest import read_manifest
from mmbal_cli.encode import get_encoder, torchaudio_shim
from mmbal_cli.encode.families import FAMILIES
from mmbal_cli.encode.plan import plan
from mmbal_cli.encode.prepare import prepare
from mmbal_cli.encode.pretrained import Pretrained
from mmbal_cli.errors import EncoderError, RecipeError
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.text import PAIR
from mmbal_cli.store.sets import read_arrays
from tests.kit import models
from tests.kit.lab import table
from tests.kit.media import write_wav
from tests.kit.models import raws, samples

Make = Callable[[str], Path]
TOLERANCE = 1e-5


def features(made: Make, family: str, kind: str, rows: list[Any] | None = None, **params: Any) -> np.ndarray:
    """What an encoder makes of the usual samples, or of `rows` (after its per-sample half)."""
    encoder = Pretrained(str(made(family)), kind, **params)
    found, mask = encoder.batch(rows or samples(encoder))
    assert mask.shape == found.shape[:-1]
    return found


def hidden(made: Make, family: str, layer: int) -> list[np.ndarray]:
    """Token rows of each frame of each usual sample, of a layer, by plain transformers."""
    torchaudio_shim.ensure()
    import torch
    import transformers

    encoder = Pretrained(str(made(family)), "video")
    entry = FAMILIES[family]
    net = getattr(transformers, entry.model).from_pretrained(made(family), **entry.load).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(made(family), backend="pil")
    with torch.inference_mode():
        outs = [net(**processor(list(raw), return_tensors="pt"), output_hidden_states=True) for raw in raws(encoder)]
    return [(out.last_hidden_state if layer == -1 else out.hidden_states[layer]).numpy() for out in outs]


@pytest.mark.parametrize(("family", "first"), [("clip", 1), ("dinov2", 1), ("vit", 1), ("deit", 2), ("siglip", 0)])
@pytest.mark.parametrize("layer", [-1, 1])
def test_pools_of_pictures_are_what_they_say(family: str, first: int, layer: int, made: Make) -> None:
    tokens = hidden(made, family, layer)
    patches = features(made, family, "video", pool="patches", layer=layer)
    np.testing.assert_allclose(patches, np.stack([t[:, first:].mean((0, 1)) for t in tokens]), atol=TOLERANCE)
    whole = features(made, family, "video", pool="tokens", layer=layer, frames=3)
    assert whole.shape[:2] == (4, 3 * tokens[0].shape[1])
    np.testing.assert_allclose(whole[0], tokens[0].reshape(-1, whole.shape[2]), atol=TOLERANCE)
    assert not whole[2, 2 * tokens[0].shape[1] :].any()  # a clip of two frames
    if first and (family != "clip" or layer != -1):  # CLIP's last class token is normalised once more
        own = features(made, family, "video", pool="cls", layer=layer)
        np.testing.assert_allclose(own, np.stack([t[:, 0].mean(0) for t in tokens]), atol=TOLERANCE)


def test_registers_are_no_patches(made: Make) -> None:
    encoder = Pretrained(str(made("dinov2-registers")), "image", pool="tokens")
    tokens, _ = encoder.batch([encoder.sample(raws(encoder)[0][0], {})])
    count = encoder.model.net.config.num_register_tokens
    assert count
    patches = features(made, "dinov2-registers", "image", [encoder.sample(raws(encoder)[0][0], {})], pool="patches")
    np.testing.assert_allclose(patches[0], tokens[0, 1 + count :].mean(0), atol=TOLERANCE)


def test_tokens_of_a_feature_map_are_its_places(made: Make) -> None:
    whole = features(made, "resnet", "video", pool="tokens", frames=3)
    means = features(made, "resnet", "video", frames=3)
    places = whole.shape[1] // 3
    np.testing.assert_allclose(whole[0].mean(0), means[0], atol=TOLERANCE)
    assert places == 16  # 32 px, eight of them a place


def test_a_clip_model_sees_all_frames_at_once(made: Make) -> None:
    tokens = features(made, "videomae", "video", pool="tokens")
    steps = features(made, "videomae", "video", pool="frames")
    mean = features(made, "videomae", "video")
    assert tokens.shape == (4, 8, 16)  # two steps of two frames, four patches each
    assert steps.shape == (4, 2, 16)
    np.testing.assert_allclose(tokens.reshape(4, 2, 4, 16).mean(2), steps, atol=TOLERANCE)
    np.testing.assert_allclose(tokens.mean(1), mean, atol=TOLERANCE)
    encoder = Pretrained(str(made("videomae")), "video")
    assert encoder.decode()["frames"] == 4
    backwards, _ = encoder.batch([row[::-1] for row in samples(encoder)])
    assert np.abs(backwards - mean).max() > 100 * TOLERANCE  # the order of frames matters
    for wrong in ({"frames": 8}, {"sampling": "fps"}):
        with pytest.raises(EncoderError, match="sees 4 frames at once"):
            Pretrained(str(made("videomae")), "video", **wrong).spec()
    assert Pretrained(str(made("videomae")), "video", frames=4).spec() == encoder.spec()
    with pytest.raises(EncoderError, match="takes video, not image"):
        Pretrained(str(made("videomae")), "image").spec()


def test_clap_and_ast_offer_what_they_can(made: Make) -> None:
    with pytest.raises(EncoderError, match="no pool 'tokens'"):
        Pretrained(str(made("clap")), "audio", pool="tokens").spec()
    tokens, mean = (features(made, "ast", "audio", pool=pool) for pool in ("tokens", "mean"))
    np.testing.assert_allclose(tokens.mean(1), mean, atol=TOLERANCE)
    np.testing.assert_allclose(features(made, "ast", "audio"), tokens[:, :2].mean(1), atol=TOLERANCE)


# ------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2-layer", "ast", "clap", "whisper"])
def test_each_window_is_a_clip_of_its_own(family: str, made: Make, tmp_path: Path) -> None:
    path = write_wav(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 16_000).clip(-1, 1))
    short = write_wav(tmp_path / "b.wav", np.random.default_rng(1).normal(0, 0.1, 5_000).clip(-1, 1))
    encoder = Pretrained(str(made(family)), "audio", window=0.3, hop=0.2, windows=3)
    rows = []
    for file in (path, short):
        raw, facts = decode_audio(file, **encoder.decode())
        assert len(encoder.steps(facts) or ()) == len(raw)
        rows.append(encoder.sample(raw, facts))
    found, mask = encoder.batch(rows)
    assert found.shape[:2] == (2, 3)
    assert mask.tolist() == [[True] * 3, [True, False, False]]
    assert not found[1, 1:].any()
    plain = Pretrained(str(made(family)), "audio", seconds=0.3)
    alone, _ = plain.batch([plain.sample(window, {}) for window in rows[0]])
    np.testing.assert_allclose(found[0], alone, atol=TOLERANCE)
    assert encoder.spec() != plain.spec()
    assert encoder.timed
    assert not plain.timed


def test_windows_that_cannot_be(made: Make) -> None:
    with pytest.raises(RecipeError, match="Choose one"):
        Pretrained(str(made("wavlm")), "audio", window=1.0, pool="tokens")
    with pytest.raises(EncoderError, match=r"window of 2 s is longer than the 0\.335 s"):
        Pretrained(str(made("ast")), "audio", window=2.0).spec()
    with pytest.raises(RecipeError, match="window"):
        Pretrained(str(made("ast")), "audio", hop=0.2)
    assert Pretrained(str(made("wavlm")), "audio", window=40.0).inputs["seconds"] == 40.0
    assert "seconds" not in Pretrained(str(made("wavlm")), "audio", window=0.3).decode()
    assert Pretrained(str(made("wavlm")), "audio", window=0.3, seconds=9.0).decode()["seconds"] == 9.0


def test_windows_of_prepared_sounds_are_stored_with_their_times(made: Make, tmp_path: Path) -> None:
    rows = []
    for i, split in enumerate(("train", "train", "val", "val", "test", "test")):
        write_wav(tmp_path / f"{i}.wav", np.random.default_rng(i).normal(0, 0.1, 6000 + 2000 * i).clip(-1, 1))
        rows.append((f"s{i}", split, "xy"[i % 2], f"{i}.wav"))
    manifest = read_manifest(table(tmp_path, "id,split,label,audio", rows))
    encoder = get_encoder(str(made("wavlm")), "audio", device="cpu", window=0.25, windows=4)
    outcome = prepare(plan(manifest, {"audio": encoder}, tmp_path / "c", dtype="float32"))
    arrays = read_arrays(tmp_path / "c", outcome.prepared)
    assert arrays["features"]["audio"].shape[:2] == (6, 4)
    assert arrays["mask"]["audio"].sum(1).tolist() == [1, 2, 2, 3, 3, 4]
    raw, _ = decode_audio(tmp_path / "5.wav", **encoder.decode())
    wanted, _ = encoder.batch([encoder.sample(raw, {})])
    np.testing.assert_allclose(arrays["features"]["audio"][5], wanted[0], atol=TOLERANCE)


# ------------------------------------------------------------------------------------------- time


def test_seconds_of_each_step(made: Make) -> None:
    def steps(family: str, kind: str, times: list[list[float]], **params: Any) -> Any:
        return Pretrained(str(made(family)), kind, **params).steps({"times": times})

    four = [[0.0, 0.1], [1.0, 1.1], [2.0, 2.1], [3.0, 3.1]]
    assert steps("clip", "video", four) == [[0.0, 3.1]]
    assert steps("clip", "video", four, pool="frames") == four
    assert steps("clip", "video", four, pool="tokens") is None
    assert steps("videomae", "video", four, pool="frames") == [[0.0, 1.1], [2.0, 3.1]]
    assert steps("wavlm", "audio", [[2.0, 5.0]]) == [[2.0, 5.0]]
    assert steps("wavlm", "audio", four, window=0.1) == four
    assert steps("ast", "audio", [[0.0, 0.3]], pool="tokens") is None
    assert Pretrained(str(made("bert")), "text", pool="tokens").steps({}) is None
    assert steps("whisper", "audio", [[1.0, 1.1]], pool="tokens")[:2] == [[1.0, 1.02], [1.02, 1.04]]


@pytest.mark.parametrize("family", ["wavlm", "wav2vec2-layer", "whisper"])
@pytest.mark.parametrize("samples_", [4000, 9001, 16_000, 30_000])
def test_tokens_of_sound_share_the_time_that_they_cover(family: str, samples_: int, made: Make) -> None:
    """As many steps as valid tokens, one after the other, from the start to the end of what was used."""
    encoder = Pretrained(str(made(family)), "audio", pool="tokens", seconds=1.0)
    wave = np.random.default_rng(0).normal(0, 0.1, samples_).astype(np.float32)[:16_000]
    _, mask = encoder.batch([encoder.sample(wave, {})])
    steps = np.array(encoder.steps({"times": [[0.0, samples_ / 16_000]]}))
    assert len(steps) == mask.sum()
    assert steps[0, 0] == 0
    assert steps[-1, 1] == pytest.approx(min(1.0, samples_ / 16_000), abs=1e-3)
    np.testing.assert_array_equal(steps[1:, 0], steps[:-1, 1])


# ------------------------------------------------------------------------------------------- pairs of texts


@pytest.mark.parametrize("family", ["bert", "electra", "roberta", "mpnet", "distilbert", "xlm-roberta"])
def test_a_pair_is_the_tokenizers_own_pair(family: str, made: Make) -> None:
    encoder = Pretrained(str(made(family)), "text")
    texts = [f"so sad{PAIR}paris", f"paris{PAIR}so sad", "so sad paris", f"{'x y ' * 30}{PAIR}rome", f"so{PAIR}"]
    found, _ = encoder.batch([encoder.sample(text, {}) for text in texts])
    wanted = np.stack([models.reference(made(family), encoder, text) for text in texts])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE)
    assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE
    assert np.abs(found[0] - found[2]).max() > 100 * TOLERANCE


def test_of_a_pair_the_longer_text_is_cut(made: Make) -> None:
    """The target of a tweet survives, however long the tweet is."""
    encoder = Pretrained(str(made("bert")), "text", length=12)
    long, other = (f"{'x y ' * 30}{PAIR}{target}" for target in ("rome", "oslo"))
    found, _ = encoder.batch([encoder.sample(text, {}) for text in (long, other)])
    assert np.abs(found[0] - found[1]).max() > 100 * TOLERANCE


def test_clip_joins_a_pair_with_a_blank(made: Make) -> None:
    encoder = Pretrained(str(made("clip-text")), "text")
    found, _ = encoder.batch([encoder.sample(text, {}) for text in (f"so sad{PAIR}rome", "so sad rome")])
    np.testing.assert_array_equal(found[0], found[1])


def test_both_towers_of_one_checkpoint(made: Make) -> None:
    picture, text = (Pretrained(str(made("clip")), kind) for kind in ("image", "text"))
    assert (picture.spec()["family"], text.spec()["family"]) == ("clip", "clip/text")
    assert picture.spec()["params"]["pool"] == "mean"
    assert text.spec()["params"]["pool"] == "cls"
    tokens = features(made, "clip-text", "text", pool="tokens", length=24)
    ends = features(made, "clip-text", "text", length=24)
    assert min(np.abs(tokens[0] - ends[0]).max(1)) < TOLERANCE  # the end token is one of them
