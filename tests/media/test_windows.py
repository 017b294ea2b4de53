"""Windows of a sound: where they lie, which fit, what is behind the end."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media import audio
from mmbal_cli.media.audio import decode_audio, most_windows
from tests.kit.media import wav_claiming, write_wav

RATE = 16000


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """2.5 s whose samples are all different."""
    ramp = np.linspace(-0.9, 0.9, round(2.5 * RATE)).astype(np.float32)
    return write_wav(tmp_path_factory.mktemp("voice") / "ramp.wav", ramp)


@pytest.mark.parametrize(
    ("window", "hop", "windows", "starts"),
    [
        (1.0, 0.0, 0, [0, 1]),
        (1.0, 0.5, 0, [0, 0.5, 1, 1.5]),
        (1.0, 0.5, 2, [0, 0.5]),
        (0.5, 1.0, 0, [0, 1, 2]),
        (0.5, 0.25, 64, [k / 4 for k in range(9)]),
        (2.5, 0.0, 0, [0]),
    ],
)
def test_windows_follow_each_other_by_the_hop_while_they_fit(voice, window, hop, windows, starts):
    whole, _ = decode_audio(voice)
    rows, facts = decode_audio(voice, window=window, hop=hop, windows=windows)
    length = round(window * RATE)
    assert rows.dtype == np.float32
    assert facts["times"] == [[start, start + window] for start in starts]
    assert facts["seconds"] == 2.5
    np.testing.assert_array_equal(rows, [whole[round(s * RATE) :][:length] for s in starts])


def test_a_window_with_a_tenth_behind_the_end_is_filled_with_zeros(voice):
    rows, facts = decode_audio(voice, window=1.3, hop=1.3)
    assert facts["times"] == [[0, 1.3], [1.3, 2.5]]
    assert rows.shape == (2, 20800)
    assert rows[1, 19200:].tolist() == [0.0] * 1600
    assert rows[1, :19200].all()
    rows, facts = decode_audio(voice, window=1.4, hop=1.4)
    assert facts["times"] == [[0, 1.4]]


def test_a_clip_shorter_than_a_window_is_one_window(voice):
    rows, facts = decode_audio(voice, window=10.0)
    assert rows.shape == (1, 160000)
    assert facts["times"] == [[0, 2.5]]
    assert not rows[0, 40000:].any()


def test_windows_of_a_part_have_the_times_of_the_file(voice):
    whole, _ = decode_audio(voice)
    rows, facts = decode_audio(f"{voice}#t=0.5,2.5", window=0.75, hop=0.5)
    assert facts["times"] == [[0.5, 1.25], [1.0, 1.75], [1.5, 2.25]]
    np.testing.assert_array_equal(rows[1], whole[16000:28000])


def test_a_long_sound_has_64_windows_unless_told_otherwise(tmp_path):
    path = wav_claiming(tmp_path / "long.wav", 300)
    assert decode_audio(path, window=2.0)[0].shape == (64, 32000)
    assert decode_audio(path, window=2.0, windows=10)[0].shape == (10, 32000)


def test_windows_that_do_not_fit_into_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "MAX_SAMPLES", 1 << 20)
    path = wav_claiming(tmp_path / "long.wav", 300)
    with pytest.raises(MediaError, match="64 windows of 10 s are too many"):
        decode_audio(path, window=10.0, hop=1.0)


@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.77, 10.0, 40.0])
@pytest.mark.parametrize("window", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("hop", [0.0, 0.1, 0.33])
def test_no_sound_has_more_windows_than_foreseen(tmp_path, seconds, window, hop):
    path = wav_claiming(tmp_path / "s.wav", seconds)
    for most in (0, 5):
        rows, _ = decode_audio(path, window=window, hop=hop, windows=most, seconds=seconds)
        assert len(rows) == most_windows(RATE, window, hop, most, seconds)
