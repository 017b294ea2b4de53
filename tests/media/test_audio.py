"""Sound of every container: right pitch, right level, right place, and refusals in words."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.probe import ENOUGH
from tests.kit.media import CLICK, HERTZ, LOUD, tone, wav_claiming, write_clip, write_sound, write_wav

FILES = [
    ("wav", "pcm_s16le", 16000, 1),
    ("wav", "pcm_u8", 16000, 1),
    ("wav", "pcm_s24le", 48000, 2),
    ("wav", "pcm_f32le", 44100, 2),
    ("flac", "flac", 44100, 2),
    ("mp3", "libmp3lame", 44100, 2),
    ("mp3", "libmp3lame", 16000, 1),
    ("opus", "libopus", 48000, 2),
    ("m4a", "aac", 44100, 1),
    ("aiff", "pcm_s16be", 16000, 1),
]


def check_tone(sound: np.ndarray, rate: int = 16000, late: float = 0.0) -> None:
    steady = sound[int(0.7 * rate) : int(1.3 * rate)]
    spectrum = np.abs(np.fft.rfft(steady * np.hanning(len(steady))))
    assert abs(spectrum.argmax() * rate / len(steady) - HERTZ) < 4
    assert steady.std() * 2**0.5 == pytest.approx(LOUD, rel=0.1)
    assert np.abs(sound).argmax() / rate - CLICK == pytest.approx(late, abs=0.005)


@pytest.mark.parametrize(("suffix", "codec", "rate", "channels"), FILES)
def test_pitch_level_and_place_are_right_in_every_format(tmp_path, suffix, codec, rate, channels):
    path = write_sound(tmp_path / f"tone.{suffix}", codec, 1.5, rate, channels)
    sound, facts = decode_audio(path)
    assert sound.dtype == np.float32
    assert sound.ndim == 1
    assert abs(len(sound) - 24000) <= 0.07 * 16000  # codecs pad the last block
    check_tone(sound)
    assert (facts["source_rate"], facts["channels"], facts["damaged_packets"]) == (rate, channels, 0)
    assert facts["seconds"] == pytest.approx(len(sound) / 16000, abs=1e-5)
    assert facts["stated_seconds"] == pytest.approx(1.5, abs=0.1)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100])
def test_the_stated_rate_is_given(tmp_path, rate):
    sound, _ = decode_audio(write_sound(tmp_path / "t.flac", "flac", 1.5, 44100), rate)
    assert abs(len(sound) - 1.5 * rate) <= 2
    check_tone(sound, rate)


def test_a_wav_at_its_own_rate_is_exact(tmp_path):
    wanted = tone(1.0, 16000)
    sound, _ = decode_audio(write_wav(tmp_path / "t.wav", wanted))
    np.testing.assert_allclose(sound, wanted, atol=1e-4)


@pytest.mark.parametrize(("suffix", "codec", "voice"), [("mp4", "libx264", "aac"), ("flv", "flv1", "libmp3lame")])
def test_the_track_of_a_video_is_as_long_as_its_pictures(tmp_path, suffix, codec, voice):
    clip = write_clip(tmp_path / f"c.{suffix}", 18, fps=12, codec=codec, sound=voice, rate=44100)
    sound, facts = decode_audio(clip)
    assert facts["seconds"] <= 1.56
    if suffix == "mp4":
        check_tone(sound)
        assert len(sound) == 24000
    else:  # flv states one length for both tracks, and cannot state the delay of an encoder
        check_tone(sound, late=0.025)


def test_tags_in_an_old_encoding_do_not_matter(tmp_path):
    path = write_sound(tmp_path / "t.flac", "flac", title="Qxxxxe")
    path.write_bytes(path.read_bytes().replace(b"Qxxxxe", "Größe!".encode("latin-1")))
    check_tone(decode_audio(path)[0])


def test_seconds_keeps_the_beginning(tmp_path):
    path = write_wav(tmp_path / "t.wav", tone(1.5, 16000))
    whole, _ = decode_audio(path)
    part, facts = decode_audio(path, seconds=0.6)
    assert len(part) == 9600
    assert facts["stated_seconds"] == 1.5
    np.testing.assert_array_equal(part, whole[:9600])
    assert len(decode_audio(path, seconds=9)[0]) == 24000


def test_a_video_without_sound_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"silent\.mp4: has no audio track"):
        decode_audio(write_clip(tmp_path / "silent.mp4", 4, sound=""))


def test_a_wav_without_samples_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"none\.wav: "):
        decode_audio(write_wav(tmp_path / "none.wav", np.zeros(0, np.float32)))


def test_not_a_number_in_a_float_wav_is_named(tmp_path):
    path = write_sound(tmp_path / "t.wav", "pcm_f32le", 1.0, 16000)
    data = bytearray(path.read_bytes())
    data[-400:-396] = np.array(np.nan, "<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(MediaError, match="not finite"):
        decode_audio(path)


def test_more_than_ten_minutes_is_refused_unless_the_beginning_is_asked_for(tmp_path):
    path = wav_claiming(tmp_path / "long.wav", 36_000)
    with pytest.raises(MediaError, match="36000 s of sound, at most 600 s"):
        decode_audio(path)
    assert len(decode_audio(path, seconds=2)[0]) == 32000


def test_a_silently_short_sound_shows_in_the_facts(tmp_path):
    path = write_sound(tmp_path / "t.m4a", "aac", 3.0, 16000)
    assert "short" not in decode_audio(path)[1]
    clip = write_clip(tmp_path / "c.mkv", 36, fps=12, noise=120, options={"cluster_time_limit": "300"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    sound, facts = decode_audio(clip)
    assert len(sound) < 0.8 * 3 * 16000
    assert facts["short"] == f"{len(sound) / 16000:.2f} of {facts['stated_seconds']:.2f} s"


def test_a_few_damaged_packets_pass_and_many_are_an_error(tmp_path):
    path = write_sound(tmp_path / "t.flac", "flac", 3.0, 16000)
    whole, _ = decode_audio(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - 150] + bytes(100) + data[len(data) - 50 :])
    sound, facts = decode_audio(path)
    assert ENOUGH * len(whole) <= len(sound) <= len(whole)
    assert facts["damaged_packets"] >= 1
    voice = write_sound(tmp_path / "t.m4a", "aac", 3.0, 16000)
    data = voice.read_bytes()
    quarter = len(data) // 4
    voice.write_bytes(data[:quarter] + b"\xff" * (2 * quarter) + data[3 * quarter :])
    with pytest.raises(MediaError, match=r"t\.m4a: \d+ damaged packets, .* of 3\.00 s decoded"):
        decode_audio(voice)
