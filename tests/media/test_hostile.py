"""Files that lie or are something else: a reason in words, in bounded time and memory; never a crash or a hang."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media import audio
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.image import decode_image
from mmbal_cli.media.video import decode_video
from tests.kit.media import level, tone, wav_claiming, write_clip, write_png, write_sound, write_wav

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def levels(pictures):
    return pictures.mean((1, 2, 3)).tolist()


def peak(program: str, *args: str) -> tuple[str, float]:
    """What a fresh process prints, and by how many MiB its peak memory grows after a first small decode."""
    program = f"""
import json, resource, sys
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.errors import MediaError
decode_audio(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{program}
print(json.dumps([said, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, *args], capture_output=True, text=True, timeout=60, check=True
    )
    said, grown = json.loads(done.stdout)
    return said, grown


# ---- sound


def flac_without_length(path, seconds, rate=48000):
    """A FLAC that does not say how long it is, as one written to a pipe."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("flac", rate=rate)
        stream.layout = "mono"
        second = np.zeros((1, rate), np.int16)
        for index in range(seconds):
            frame = av.AudioFrame.from_ndarray(second, format="s16", layout="mono")
            frame.sample_rate, frame.pts = rate, index * rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of STREAMINFO that count samples
    data[22:26] = bytes(4)
    path.write_bytes(data)
    return path


def test_a_sound_that_is_long_without_saying_so_stops_at_the_limit_in_bounded_memory(tmp_path):
    long = flac_without_length(tmp_path / "long.flac", 700)
    small = write_wav(tmp_path / "small.wav", tone(0.5, 16000))
    start = time.perf_counter()
    said, grown = peak(
        "try:\n    said = len(decode_audio(sys.argv[2])[0])\nexcept MediaError as error:\n    said = str(error)",
        str(small),
        str(long),
    )
    assert said == f"{long}: holds more than 600 s of sound"
    assert grown < 160, grown  # 600 s are 38 MB at 16 kHz, and were 115 at its own rate
    assert time.perf_counter() - start < 30
    assert len(decode_audio(long, seconds=1.0)[0]) == 16000
    part, facts = decode_audio(f"{long}#t=650,651")
    assert (len(part), facts["times"]) == (16000, [[650.0, 651.0]])
    with pytest.raises(MediaError, match="lies beyond its end"):
        decode_audio(f"{long}#t=700.5,701")


@pytest.mark.parametrize("suffix", ["mp3", "flac"])
def test_a_header_of_ten_hours_over_a_second_of_sound(tmp_path, suffix):
    path = write_sound(tmp_path / f"t.{suffix}", {"mp3": "libmp3lame", "flac": "flac"}[suffix], 1.0, 16000)
    data = bytearray(path.read_bytes())
    if suffix == "flac":
        total = 36_000 * 16_000
        data[21] = (data[21] & 0xF0) | (total >> 32)
        data[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    else:
        place = max(data.find(b"Xing"), data.find(b"Info"))
        data[place + 8 : place + 12] = struct.pack(">I", 36_000 * 16_000 // 576)
    path.write_bytes(data)
    with pytest.raises(MediaError, match=r"holds 360\d\d s of sound, at most 600 s is read"):
        decode_audio(path)
    sound, facts = decode_audio(path, seconds=30.0)
    assert 15000 < len(sound) < 19000
    assert facts["short"].endswith("of 30.00 s")
    start = time.perf_counter()
    with pytest.raises(MediaError, match="lies beyond its end"):
        decode_audio(f"{path}#t=30000,30001")
    assert time.perf_counter() - start < 5


def test_a_sparse_wav_of_ten_hours_costs_nothing(tmp_path):
    long, small = wav_claiming(tmp_path / "long.wav", 36_000), write_wav(tmp_path / "s.wav", tone(0.5, 16000))
    said, grown = peak(
        """
said = []
for value in ("", "#t=30000,30002"):
    try:
        said.append(len(decode_audio(sys.argv[2] + value)[0]))
    except MediaError as error:
        said.append(str(error))""",
        str(small),
        str(long),
    )
    assert said == [f"{long}: holds 36000 s of sound, at most 600 s is read", 32000]
    assert grown < 50


def test_a_place_that_cannot_be_sought_is_reached_by_decoding(tmp_path, monkeypatch):
    read = audio._Sound.read
    monkeypatch.setattr(
        audio._Sound, "read", lambda self, c, stream, sought=False: not sought and read(self, c, stream)
    )
    sound = np.zeros(80 * 16000, np.float32)
    sound[70 * 16000 + 800] = 1.0
    part, _ = decode_audio(f"{write_wav(tmp_path / 't.wav', sound)}#t=70,71")
    assert np.abs(part).argmax() == 800


# ---- video


def with_avi_count(path, count):
    data = bytearray(path.read_bytes())
    place = data.index(b"strh") + 8 + 32
    data[place : place + 4] = count.to_bytes(4, "little")
    place = data.index(b"avih") + 8 + 16
    data[place : place + 4] = count.to_bytes(4, "little")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("count", [0, 1, 7, 25, 100_000])
@pytest.mark.parametrize("index", [True, False])
def test_an_avi_that_counts_its_frames_wrongly(tmp_path, count, index):
    clip = with_avi_count(write_clip(tmp_path / "c.avi", 20, codec="mjpeg", sound=""), count)
    if not index:  # cut off before the index, as by a recorder that lost power
        data = clip.read_bytes()
        clip.write_bytes(data[: data.rindex(b"idx1")])
    start = time.perf_counter()
    pictures, facts = decode_video(clip, 4, 24)
    assert time.perf_counter() - start < 5
    assert facts["frame_count"] == 20
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (2, 7, 12, 17)], atol=8)
    assert ("short" in facts) == (facts["stated_frames"] > 22)
    pictures, _ = decode_video(f"{clip}#frames=12,16", 4, 24)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (12, 13, 14, 15)], atol=8)
    with pytest.raises(MediaError, match=r"lie beyond its end \(20 frames\)"):
        decode_video(f"{clip}#frames=20,24")


def test_an_mp4_whose_index_promises_more_frames_than_it_holds(tmp_path):
    """The sizes of the samples stay, their data are gone: seeking to a late frame finds nothing."""
    clip = write_clip(tmp_path / "c.mp4", 40, fps=10, sound="", noise=100, options={"movflags": "faststart"})
    data = clip.read_bytes()
    clip.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    start = time.perf_counter()
    with pytest.raises(MediaError, match=r"damaged: \d\d of 40 frames decode"):
        decode_video(clip, 4, 24)
    with pytest.raises(MediaError, match="damaged"):
        decode_video(f"{clip}#frames=30,40", 4, 24)
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("seconds", [0.0, 0.1, 36_000.0])
def test_an_flv_that_lies_about_its_length(tmp_path, seconds):
    clip = write_clip(tmp_path / "c.flv", 20, fps=10, codec="flv1", sound="libmp3lame", rate=44100)
    data = bytearray(clip.read_bytes())
    place = data.index(b"duration") + 9
    data[place : place + 8] = struct.pack(">d", seconds)
    clip.write_bytes(data)
    pictures, facts = decode_video(clip, 4, 24)
    assert facts["frame_count"] == 20
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (2, 7, 12, 17)], atol=6)
    if seconds > 600:
        assert facts["short"].startswith("20 of ")
        assert len(decode_audio(clip, seconds=1.0)[0]) == 16000


# ---- something else altogether


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (POINTER, r"\(a Git LFS pointer: the file itself was not downloaded\)"),
        (b"<!doctype html>\n<p>Sign in", r"\(a web page, perhaps of a download that failed\)"),
        (b"a text of several words\n" * 50, r"\(a text\)"),
    ],
)
def test_what_the_file_is_instead_is_said(tmp_path, data, text):
    for decode, name in ((decode_video, "c.mp4"), (decode_audio, "c.wav"), (decode_image, "c.jpg")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MediaError, match=rf"{name}: cannot be read as .*{text}"):
            decode(tmp_path / name)


@pytest.mark.parametrize("decode", [decode_video, decode_audio, decode_image])
def test_pipes_devices_and_dangling_links_are_not_opened(tmp_path, decode):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "link.mp4").symlink_to(tmp_path / "pipe.mp4")
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "lost")
    (tmp_path / "round.mp4").symlink_to(tmp_path / "round.mp4")
    for name in ("pipe.mp4", "link.mp4", "/dev/zero", "/dev/tty"):
        with pytest.raises(MediaError, match=r"is not a regular file|No such"):
            decode(tmp_path / name)
    for name in ("nowhere.mp4", "round.mp4"):
        with pytest.raises(MediaError, match=r"No such file|symbolic links"):
            decode(tmp_path / name)


def test_proportions_of_a_picture_turned_by_its_tag(tmp_path):
    from PIL import Image

    path = write_png(tmp_path / "p.png", np.zeros((60, 20, 3), np.uint8))
    turned = tmp_path / "turned.jpg"
    picture = Image.open(path)
    exif = picture.getexif()
    exif[274] = 6
    picture.save(turned, exif=exif)
    assert decode_image(turned, 500, "shortest").shape == (20, 60, 3)
    assert decode_image(turned, 10, "shortest").shape == (10, 30, 3)
    assert decode_image(path, 500, "shortest").shape == (60, 20, 3)
    folder = tmp_path / "clip"
    folder.mkdir()
    turned.rename(folder / "1.jpg")
    assert decode_video(folder, 1, 500, fit="shortest")[0].shape == (1, 20, 60, 3)
