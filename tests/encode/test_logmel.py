"""logmel-stats against a plain computation, and what it must and must not react to."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.encode import get_encoder, logmel
from mmbal_cli.errors import RecipeError
from tests.kit.media import tone

RATE = 16000


def noise(seconds=2.5, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def encode(sound, **params):
    return get_encoder("logmel-stats", "audio", **params).sample(sound, {})


def plain_log_mel(sound):
    """One frame at a time in float64, straight from the definition."""
    window = np.sin(np.pi * np.arange(512) / 512) ** 2
    padded = np.pad(sound.astype(np.float64), 256, mode="reflect")
    mel = lambda f: 2595 * np.log10(1 + f / 700)  # noqa: E731
    edges = [700 * (10 ** (m / 2595) - 1) for m in np.linspace(mel(20), mel(7600), 66)]
    columns = []
    for start in range(0, len(sound) + 1, 160):
        power = np.abs(np.fft.rfft(padded[start : start + 512] * window)) ** 2
        column = []
        for low, centre, high in zip(edges, edges[1:], edges[2:], strict=False):
            rise = (np.arange(257) * RATE / 512 - low) / (centre - low)
            fall = (high - np.arange(257) * RATE / 512) / (high - centre)
            column.append(np.log(max(power @ np.maximum(0, np.minimum(rise, fall)), 1e-10)))
        columns.append(column)
    return np.array(columns).T


@pytest.mark.parametrize("sound", [noise(0.5), tone(0.6, RATE), noise(0.0321)], ids=["noise", "tone", "short"])
def test_the_spectrogram_is_the_plain_one(sound):
    found = logmel.log_mel(sound, RATE)
    assert found.shape == (64, len(sound) // 160 + 1)
    np.testing.assert_allclose(found, plain_log_mel(sound), atol=5e-3)  # float32 near the floor


def test_the_statistics_are_the_plain_ones():
    bands = logmel.log_mel(noise(), RATE).astype(np.float64)
    found = encode(noise())
    assert found.shape == (640,)
    assert found.dtype == np.float32
    centred = bands - bands.mean(1, keepdims=True)
    modulation = np.abs(np.fft.rfft(centred, n=256))[:, 1:33].reshape(8, 8, 16, 2).mean((1, 3))
    edges = [(i * 251 // 8, -(-(i + 1) * 251 // 8)) for i in range(8)]
    coarse = [[(bands - bands.mean())[4 * k : 4 * k + 4, a:b].mean() for a, b in edges] for k in range(16)]
    expected = [
        bands.mean(1),
        bands.std(1),
        np.diff(bands).std(1),
        *np.quantile(bands, [0.1, 0.5, 0.9], axis=1),
        np.log1p(modulation).ravel(),
        np.ravel(coarse),
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=2e-4)


def test_the_same_sound_gives_the_same_bytes():
    assert encode(noise()).tobytes() == encode(noise().copy()).tobytes()


def test_loudness_moves_levels_and_nothing_else():
    quiet, loud = encode(noise()), encode(3 * noise())
    np.testing.assert_allclose(loud[:64] - quiet[:64], 2 * np.log(3), atol=1e-4)
    np.testing.assert_allclose(loud[64:192], quiet[64:192], atol=1e-3)
    np.testing.assert_allclose(loud[384:], quiet[384:], atol=1e-3)


def test_pitch_moves_the_loudest_band():
    time = np.arange(RATE) / RATE
    peaks = [
        encode(np.sin(2 * np.pi * hertz * time).astype(np.float32))[:64].argmax() for hertz in (150, 400, 1000, 4000)
    ]
    assert peaks == sorted(set(peaks))


def test_the_modulation_part_tells_tempo():
    time = np.arange(round(2.56 * RATE)) / RATE
    rows = []
    for tempo in (2.0, 6.0, 10.0):
        sound = noise(2.56) * (0.55 + 0.45 * np.sin(2 * np.pi * tempo * time))
        rows.append(encode(sound.astype(np.float32))[384:512].reshape(8, 16).mean(0))
    # 16 parts of 0.78 Hz from 0.39 Hz on
    assert [row.argmax() for row in rows] == [int((tempo / 0.390625 - 1) // 2) for tempo in (2.0, 6.0, 10.0)]


def test_segments_are_the_statistics_of_the_parts():
    bands = logmel.log_mel(noise(), RATE)
    parts = np.array_split(bands, 4, axis=1)
    np.testing.assert_array_equal(encode(noise(), segments=4), [logmel.statistics(part) for part in parts])


@pytest.mark.parametrize("samples", [1, 100, 511, 513, 4000])
@pytest.mark.parametrize("segments", [1, 7])
def test_short_sounds_and_silence_are_finite(samples, segments):
    for sound in (np.zeros(samples, np.float32), noise()[:samples]):
        found = encode(sound, segments=segments)
        assert found.shape == ((640,) if segments == 1 else (segments, 640))
        assert np.isfinite(found).all()


def test_a_long_sound_is_worked_on_in_blocks_without_a_seam(monkeypatch):
    sound = noise(6)
    whole = logmel.log_mel(sound, RATE)
    monkeypatch.setattr(logmel, "BLOCK", 100)
    np.testing.assert_allclose(logmel.log_mel(sound, RATE), whole, atol=1e-5)


@pytest.mark.parametrize("rate", [8000, 22050, 44100])
def test_other_rates_have_the_same_time_scale(rate):
    sound = np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32)
    assert logmel.log_mel(sound, rate).shape[1] in (100, 101)
    assert np.isfinite(encode(sound, rate=rate)).all()


def test_batch_stacks_with_a_full_mask():
    encoder = get_encoder("logmel-stats", "audio", segments=3)
    features, mask = encoder.batch([encoder.sample(noise(1, seed), {}) for seed in range(4)])
    assert (features.shape, features.dtype) == ((4, 3, 640), np.float32)
    assert (mask.shape, mask.all()) == ((4, 3), True)


def test_the_spec_holds_what_decides_the_numbers():
    encoder = get_encoder("logmel-stats", "audio", segments=2)
    assert encoder.decode() == {"rate": 16000, "seconds": 0.0}
    assert encoder.spec() == {
        "name": "logmel-stats",
        "version": 1,
        "kind": "audio",
        "params": {"rate": 16000, "seconds": 0.0, "segments": 2},
    }


def test_windows_are_the_statistics_of_each():
    windows = noise(2).reshape(4, 8000)
    encoder = get_encoder("logmel-stats", "audio", window=0.5)
    found = encoder.sample(windows, {})
    np.testing.assert_array_equal(found, [encode(window) for window in windows])


def test_clips_of_fewer_windows_are_masked():
    encoder = get_encoder("logmel-stats", "audio", window=0.5, windows=5)
    rows = [encoder.sample(noise(seconds).reshape(-1, 8000), {}) for seconds in (2.5, 0.5, 1.5)]
    features, mask = encoder.batch(rows)
    assert (features.shape, features.dtype) == ((3, 5, 640), np.float32)
    assert mask.sum(1).tolist() == [5, 1, 3]
    np.testing.assert_array_equal(features[2, :3], rows[2])
    assert not features[~mask].any()


@pytest.mark.parametrize(
    ("params", "most"),
    [
        ({"window": 1.0}, 64),
        ({"window": 1.0, "windows": 7}, 7),
        ({"window": 1.0, "seconds": 5.0}, 5),
        ({"window": 1.0, "hop": 0.5, "seconds": 3.0}, 5),
        ({"window": 1.0, "seconds": 3.0, "windows": 64}, 3),
    ],
)
def test_the_width_in_time_does_not_depend_on_the_batch(params, most):
    encoder = get_encoder("logmel-stats", "audio", **params)
    assert encoder.batch([encoder.sample(noise(1)[None], {})])[0].shape == (1, most, 640)


def test_steps_are_those_of_what_is_stored():
    whole, windows = {"times": [[0.5, 2.5]]}, {"times": [[0.0, 1.0], [0.5, 1.5]]}
    assert get_encoder("logmel-stats", "audio").steps(whole) == [[0.5, 2.5]]
    assert get_encoder("logmel-stats", "audio", segments=4).steps(whole) == [[0.5, 1], [1, 1.5], [1.5, 2], [2, 2.5]]
    assert get_encoder("logmel-stats", "audio", window=1.0, hop=0.5).steps(windows) == windows["times"]
    assert get_encoder("logmel-stats", "audio").steps({}) is None


def test_defaults_of_the_decode_settings_leave_no_trace():
    """Caches made before these settings existed keep their fingerprints."""
    plain = get_encoder("logmel-stats", "audio", window=0.0, hop=0.0, windows=0)
    assert plain.params == {"rate": 16000, "seconds": 0.0, "segments": 1}
    assert plain.decode() == {"rate": 16000, "seconds": 0.0}
    assert plain.spec() == {
        "name": "logmel-stats",
        "version": 1,
        "kind": "audio",
        "params": {"rate": 16000, "seconds": 0.0, "segments": 1},
    }
    assert get_encoder("logmel-stats", "audio").spec() == plain.spec()


def test_decode_settings_reach_the_decoder_and_the_key():
    encoder = get_encoder("logmel-stats", "audio", window=2, hop=0.5, windows=3)
    assert encoder.decode() == {"rate": 16000, "seconds": 0.0, "hop": 0.5, "window": 2.0, "windows": 3}
    assert encoder.spec()["params"]["window"] == 2.0
    again = get_encoder("logmel-stats", "audio", **encoder.params)
    assert (again.spec(), again.decode()) == (encoder.spec(), encoder.decode())


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"segmets": 2}, "no parameter 'segmets'.*Did you mean 'segments'"),
        ({"segments": 0}, "segments is 0.*1 to 1000"),
        ({"rate": "16k"}, "rate is '16k'.*whole number"),
        ({"rate": True}, "rate is True"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"window": -1}, "audio.window is -1.*0.0 to 600"),
        ({"windows": 1.5, "window": 1.0}, "audio.windows is 1.5.*whole number from 0 to 64"),
        ({"hop": 0.5}, "audio.hop is 0.5.*used with audio.window only"),
        ({"windows": 4}, "audio.windows is 4.*used with audio.window only"),
        ({"window": 1.0, "segments": 2}, "has both segments and a window"),
        ({"windw": 1.0}, "no parameter 'windw'.*Did you mean 'window'"),
        ({"show": "flow"}, "no parameter 'show'"),
    ],
)
def test_wrong_parameters_are_refused(params, text):
    with pytest.raises(RecipeError, match=text):
        get_encoder("logmel-stats", "audio", **params)
