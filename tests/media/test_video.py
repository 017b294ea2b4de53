"""Frames of real clips: the right ones, at the stated times, in every container; refusals in words."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media import second
from mmbal_cli.media.probe import probe
from mmbal_cli.media.video import decode_video, frame_indices
from tests.kit.media import level, write_clip, write_sound

CONTAINERS = [
    ("mp4", "libx264", "aac"),
    ("mov", "libx264", "aac"),
    ("mkv", "libx264", "aac"),
    ("avi", "mpeg4", "libmp3lame"),
    ("flv", "flv1", "libmp3lame"),
    ("webm", "libvpx", ""),
    ("mpg", "mpeg2video", ""),  # by the second decoder, as the next
    ("ts", "libx264", "aac"),
]


def levels(pictures: np.ndarray) -> list[float]:
    return pictures.mean((1, 2, 3)).tolist()


@pytest.mark.parametrize(("suffix", "codec", "sound"), CONTAINERS)
def test_uniform_frames_are_the_centres_of_equal_parts_in_every_container(tmp_path, suffix, codec, sound):
    fps = 24 if codec == "mpeg2video" else 12
    clip = write_clip(tmp_path / f"clip.{suffix}", 16, fps=fps, codec=codec, sound=sound, rate=44100)
    pictures, facts = decode_video(clip, frames=4, size=48)
    assert pictures.shape == (4, 48, 48, 3)
    assert pictures.dtype == np.uint8
    assert facts["frame_count"] == 16
    late = 1 if suffix == "avi" else 0  # this muxer leaves a gap after the first frame of a codec with B-frames
    np.testing.assert_allclose(levels(pictures), [level(i - late) for i in (2, 6, 10, 14)], atol=4)
    shown = np.array([[2, 3], [6, 7], [10, 11], [14, 15]]) / fps
    np.testing.assert_allclose(facts["times"], shown, atol=0.002)


def test_facts_of_a_plain_clip(tmp_path):
    _, facts = decode_video(write_clip(tmp_path / "clip.mp4", 18, fps=12), frames=3, size=24)
    assert facts == {
        "frame_count": 18,
        "stated_frames": 18,
        "fps": 12.0,
        "seconds": 1.5,
        "times": [[0.25, 0.3333], [0.75, 0.8333], [1.25, 1.3333]],
    }


def test_size_is_height_then_width_and_one_number_is_a_square(tmp_path):
    clip = write_clip(tmp_path / "clip.mp4", 4, size=(96, 64))
    assert decode_video(clip, 2, (32, 80))[0].shape == (2, 32, 80, 3)
    assert decode_video(clip, 2, 40)[0].shape == (2, 40, 40, 3)


def test_ends_takes_the_first_and_the_last_frame(tmp_path):
    pictures, facts = decode_video(write_clip(tmp_path / "c.mp4", 13), frames=4, size=24, sampling="ends")
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (0, 4, 8, 12)], atol=4)
    assert facts["times"][0][0] == 0
    assert facts["times"][-1][1] == facts["seconds"]


def test_a_clip_shorter_than_the_frames_repeats_them(tmp_path):
    pictures, facts = decode_video(write_clip(tmp_path / "c.mp4", 2), frames=6, size=24)
    np.testing.assert_allclose(levels(pictures), [level(0)] * 3 + [level(1)] * 3, atol=4)
    assert facts["frame_count"] == 2
    assert len(decode_video(write_clip(tmp_path / "one.mp4", 1), frames=3, size=24)[0]) == 3


def test_times_decide_where_the_frame_rate_changes(tmp_path):
    times = [i * 0.04 for i in range(10)] + [0.4 + 0.2 * i for i in range(8)]
    clip = write_clip(tmp_path / "vfr.mkv", 18, times=times, sound="")
    pictures, facts = decode_video(clip, frames=5, size=24)
    end = facts["seconds"]
    wanted = [max(i for i, start in enumerate(times) if start <= (k + 0.5) * end / 5 + 1e-3) for k in range(5)]
    np.testing.assert_allclose(levels(pictures), [level(i) for i in wanted], atol=5)
    ends = [*times[1:], end]
    np.testing.assert_allclose(facts["times"], [(times[i], ends[i]) for i in wanted], atol=0.002)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 75, 1001])
@pytest.mark.parametrize("sampling", ["uniform", "ends", "segment-centre"])
def test_indices_are_sorted_and_inside_for_any_length(count, sampling):
    start = np.arange(count) / 29.97 + 0.08
    shown = np.stack([start, start + 1 / 29.97], 1).astype(np.float32).astype(np.float64)
    for frames in (1, 2, 8, 33):
        found = frame_indices(shown, frames, sampling)
        assert found.min() >= 0
        assert found.max() < count
        assert (np.diff(found) >= 0).all()
        if sampling == "uniform":
            exact = ((np.arange(frames) + 0.5) * count / frames).astype(int)
            assert np.abs(found - exact).max() <= 1
            assert (found == exact).mean() > 0.9


# ---- sampling


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8, 80, 1001])
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_segment_centre_is_the_middle_frame_of_each_segment_whatever_the_times(count, frames):
    start = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.5, count + 1))
    shown = np.stack([start[:-1], start[1:]], 1)
    edges = [count * k / frames for k in range(frames + 1)]
    wanted = [int((low + high) / 2 + 1e-9) for low, high in itertools.pairwise(edges)]
    assert frame_indices(shown, frames, "segment-centre").tolist() == wanted


def test_segment_centre_of_a_clip(tmp_path):
    times = [i * 0.04 for i in range(10)] + [0.4 + 0.2 * i for i in range(5)]
    clip = write_clip(tmp_path / "vfr.mkv", 15, times=times, sound="")
    pictures, _ = decode_video(clip, 3, 24, "segment-centre")
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (2, 7, 12)], atol=5)


@pytest.mark.parametrize(
    ("seconds", "fps", "frames", "wanted"),
    [
        (2.0, 1.0, 8, [0, 12]),
        (2.1, 1.0, 8, [0, 12, 24]),
        (2.0, 1.0, 1, [0]),
        (2.0, 2.0, 8, [0, 6, 12, 18]),
        (2.0, 0.5, 8, [0]),
        (0.5, 1.0, 8, [0]),
        (1.0, 24.0, 5, [0, 0, 1, 1, 2]),
        (3.0, 0.7, 8, [0, 17, 34]),
    ],
)
def test_fps_takes_a_frame_every_so_often_and_fewer_of_short_clips(seconds, fps, frames, wanted):
    start = np.arange(round(seconds * 12)) / 12 + 1.4
    shown = np.stack([start, start + 1 / 12], 1).astype(np.float32).astype(np.float64)
    assert frame_indices(shown, frames, "fps", fps).tolist() == wanted


def test_fps_of_clips_short_long_and_of_varying_rate(tmp_path):
    long = write_clip(tmp_path / "c.mp4", 30, fps=12)
    pictures, facts = decode_video(long, 8, 24, "fps", fps=1.0)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (0, 12, 24)], atol=4)
    np.testing.assert_allclose(facts["times"], [[0, 1 / 12], [1, 13 / 12], [2, 25 / 12]], atol=1e-3)
    assert len(decode_video(write_clip(tmp_path / "one.mp4", 1), 8, 24, "fps")[0]) == 1
    times = [i * 0.04 for i in range(10)] + [0.4 + 0.4 * i for i in range(5)]
    vfr = write_clip(tmp_path / "vfr.mkv", 15, times=times, sound="")
    pictures, _ = decode_video(vfr, 4, 24, "fps", fps=2.0)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (0, 10, 11, 12)], atol=5)


def test_decoding_twice_gives_the_same_bytes(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", noise=120)
    assert decode_video(clip)[0].tobytes() == decode_video(clip)[0].tobytes()


def test_a_damaged_end_is_cut_off_and_more_than_a_tenth_is_an_error(tmp_path):
    whole = write_clip(tmp_path / "whole.mp4", 75, fps=25, sound="", noise=120, options={"movflags": "faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) - 200])
    first = [decode_video(cut, frames=75, size=32) for _ in range(3)]
    for pictures, facts in first:
        assert facts["stated_frames"] == 75
        assert 68 <= facts["frame_count"] < 75
        assert facts["times"] == sorted(facts["times"])
        np.testing.assert_array_equal(pictures, first[0][0])
    kept = np.abs(first[0][0][:60].astype(int) - decode_video(whole, frames=75, size=32)[0][:60])
    assert kept[:30].mean() < 12  # pictures of a shorter clip: neighbours at most
    cut.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(MediaError, match=r"\(h264\) is damaged: \d\d of 75 frames decode"):
        decode_video(cut)


TURNS = {
    90: (0, 1, 0, -1, 0, 0, 0, 0),
    180: (-1, 0, 0, 0, -1, 0, 0, 0),
    270: (0, -1, 0, 1, 0, 0, 0, 0),
}


@pytest.mark.parametrize("degrees", TURNS)
def test_both_decoders_turn_a_phone_video_upright(tmp_path, degrees):
    clip = write_clip(tmp_path / "c.mp4", 8, size=(128, 96), sound="", corner=True)
    upright = decode_video(clip, 4, (48, 64))[0]
    data = bytearray(clip.read_bytes())
    place = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    data[place : place + 36] = struct.pack(">9i", *(value << 16 for value in TURNS[degrees]), 1 << 30)
    clip.write_bytes(data)
    size = (64, 48) if degrees % 180 else (48, 64)
    turned = decode_video(clip, 4, size)[0]
    again = second.pictures(clip, np.array([1, 3, 5, 7]), *size)
    wanted = np.rot90(upright, -degrees // 90, axes=(1, 2))
    assert np.abs(turned.astype(int) - wanted).mean() < 4
    assert np.abs(again.astype(int) - wanted).mean() < 4


def test_the_second_decoder_sees_the_same_frames_at_the_same_times(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", 40, fps=12, noise=60)
    pictures, facts = decode_video(clip, frames=8, size=96)
    shown = second.frame_times(clip, probe(clip))
    wanted = frame_indices(shown, 8, "uniform")
    np.testing.assert_allclose(shown[wanted], facts["times"], atol=1e-3)
    again = second.pictures(clip, wanted, 96, 96)
    assert np.abs(again.astype(int) - pictures).mean() < 3


def test_a_container_that_promises_too_many_frames_shows_in_the_facts(tmp_path):
    clip = write_clip(tmp_path / "c.avi", 20, codec="mpeg4", sound="")
    data = bytearray(clip.read_bytes())
    place = data.index(b"strh") + 8 + 32
    data[place : place + 4] = (300).to_bytes(4, "little")
    clip.write_bytes(data)
    pictures, facts = decode_video(clip, frames=4, size=24)
    assert (facts["frame_count"], facts["stated_frames"]) == (20, 300)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (2, 7, 12, 17)], atol=8)


def test_a_silently_short_clip_shows_in_the_facts(tmp_path):
    clip = write_clip(tmp_path / "c.mkv", 60, sound="", noise=120, options={"cluster_time_limit": "500"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 2])
    _, facts = decode_video(clip, frames=4, size=24)
    assert facts["frame_count"] < 0.7 * facts["stated_frames"]
    assert facts["short"] == f"{facts['frame_count']} of {facts['stated_frames']} frames"


def test_missing_tracks_are_named(tmp_path):
    voice = write_sound(tmp_path / "v.m4a", "aac")
    with pytest.raises(MediaError, match=r"v\.m4a: has no video track"):
        decode_video(voice)


def test_a_cover_picture_is_no_video(tmp_path):
    header = probe(write_sound(tmp_path / "song.mp3", "libmp3lame"))
    assert header.codec == ""
    assert header.audio_codec.startswith("mp3")


def test_av1_says_that_the_codec_is_the_problem(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", 6, codec="libsvtav1", sound="")
    with pytest.raises(MediaError, match=r"\(av1\).*may be unsupported.*decord2"):
        decode_video(clip)


def test_a_frame_of_more_than_4096_px_is_refused_from_the_header(tmp_path):
    clip = write_clip(tmp_path / "wide.mp4", 1, size=(4112, 16), sound="")
    with pytest.raises(MediaError, match="4112x16, at most 4096"):
        decode_video(clip)


def test_unknown_sampling_is_refused(tmp_path):
    with pytest.raises(MediaError, match="unknown sampling 'middle'"):
        decode_video(write_clip(tmp_path / "c.mp4", 2), sampling="middle")


def test_reasons_do_not_differ_from_time_to_time(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", 20, noise=120, options={"movflags": "faststart"})
    data = clip.read_bytes()
    clip.write_bytes(data[: len(data) // 3])
    reasons: set[str] = set()
    for _ in range(2):
        with pytest.raises(MediaError) as caught:
            decode_video(clip)
        reasons.add(str(caught.value))
    assert len(reasons) == 1
    assert "/src/" not in reasons.pop()
