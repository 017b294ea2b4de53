"""Parts of a clip: the notation, the right frames and samples of them, one time base, and refusals in words."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media.audio import decode_audio
from mmbal_cli.media.fragment import WHOLE, Fragment, split
from mmbal_cli.media.video import decode_video
from tests.kit.media import level, tone, wav_claiming, write_clip, write_png, write_sound, write_wav


def levels(pictures: np.ndarray) -> list[float]:
    return pictures.mean((1, 2, 3)).tolist()


# ---- the notation


@pytest.mark.parametrize(
    ("value", "path", "part"),
    [
        ("a.mp4", "a.mp4", WHOLE),
        ("a.mp4#t=1.5,4", "a.mp4", Fragment(seconds=(1.5, 4.0))),
        ("a b#1/c.avi#frames=27,107", "a b#1/c.avi", Fragment(frames=(27, 107))),
        ("a#xywh=percent:0,0,50,100", "a", Fragment(crop=(0, 0, 50, 100))),
        ("a#xywh=percent:50,0,50,100&t=0,0.25", "a", Fragment((0, 0.25), None, (50, 0, 50, 100))),
        ("hash#tag.mp4", "hash#tag.mp4", WHOLE),
        ("take#3=b.mp4", "take#3=b.mp4", WHOLE),
        ("#t=1,2", "#t=1,2", WHOLE),
        ("a#t=1,2#b.mp4", "a#t=1,2#b.mp4", WHOLE),
        ("a#track=2", "a#track=2", WHOLE),
        ("a#t=", "a#t=", WHOLE),
        ("new\nline.mp4#t=1,2", "new\nline.mp4", Fragment(seconds=(1, 2))),
    ],
)
def test_a_value_is_a_path_and_a_part(value, path, part):
    assert split(value) == (path, part)


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("t=1", "'t=1' in"),
        ("t=1,", "'t=1,' in"),
        ("t=a,b", "no part of a clip; expected t=START,END"),
        ("t=-1,2", "'t=-1,2' in"),
        ("t=1e3,2e3", "'t=1e3,2e3' in"),
        ("t=1,2&", "'' in"),
        ("t=1,2&t=3,4", "'t=3,4' in"),
        ("t=1,2&frames=3,4", "both seconds and frames"),
        ("t=2,2", "ends before it starts"),
        ("t=3,2", "ends before it starts"),
        ("frames=5,5", "ends before it starts"),
        ("frames=1.5,5", "'frames=1.5,5' in"),
        ("t=1,2&colour=red", "'colour=red' in"),
        ("xywh=0,0,50,50", "'xywh=0,0,50,50' in"),
        ("xywh=percent:60,0,50,100", "no rectangle inside the picture"),
        ("xywh=percent:0,0,0,100", "no rectangle inside the picture"),
        ("t=٣,٤", "no part of a clip"),
        ("t=1,2.mp4", r"'t=1,2\.mp4' in"),
    ],
)
def test_misspelt_parts_are_refused_by_name(part, text):
    with pytest.raises(MediaError, match=text) as caught:
        split(f"some/clip.mp4#{part}")
    assert str(caught.value).startswith("some/clip.mp4: ")


# ---- pictures

CONTAINERS = [
    ("mp4", "libx264", "aac"),
    ("mkv", "libx264", "aac"),
    ("avi", "mpeg4", "libmp3lame"),
    ("flv", "flv1", "libmp3lame"),
    ("ts", "libx264", "aac"),  # by the second decoder
]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        suffix: write_clip(folder / f"c.{suffix}", 40, fps=10, codec=codec, sound=sound, rate=44100)
        for suffix, codec, sound in CONTAINERS
    }


@pytest.mark.parametrize("suffix", [suffix for suffix, _, _ in CONTAINERS])
def test_frames_are_counted_from_zero_and_the_end_is_not_included(clips, suffix):
    late = 1 if suffix == "avi" else 0  # this muxer leaves a gap after the first frame of a codec with B-frames
    pictures, facts = decode_video(f"{clips[suffix]}#frames=20,28", 8, 24)
    found = levels(pictures)
    np.testing.assert_allclose(found, [level(i) for i in range(20, 28)], atol=6)
    start = np.arange(20, 28) / 10 + late / 10
    np.testing.assert_allclose(facts["times"], np.stack([start, start + 0.1], 1), atol=0.002)
    assert facts["frame_count"] == 40


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_seconds_are_those_from_the_start_of_the_clip(clips, suffix):
    pictures, facts = decode_video(f"{clips[suffix]}#t=1,2", 2, 24)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (12, 17)], atol=6)
    np.testing.assert_allclose(facts["times"], [[1.2, 1.3], [1.7, 1.8]], atol=0.002)
    pictures, _ = decode_video(f"{clips[suffix]}#t=1,2", 4, 24, "segment-centre")
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (11, 13, 16, 18)], atol=6)
    pictures, _ = decode_video(f"{clips[suffix]}#t=0.5,3.05", 8, 24, "fps")
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (5, 15, 25)], atol=6)


def test_a_part_between_two_frames_is_the_frame_on_show(clips):
    pictures, facts = decode_video(f"{clips['mp4']}#t=1.52,1.57", 3, 24, "ends")
    np.testing.assert_allclose(levels(pictures), [level(15)] * 3, atol=4)
    assert facts["times"] == [[1.5, 1.6]] * 3


def test_seconds_where_the_frame_rate_changes(tmp_path):
    times = [i * 0.04 for i in range(10)] + [0.4 + 0.4 * i for i in range(5)]
    clip = write_clip(tmp_path / "vfr.mkv", 15, times=times, sound="")
    pictures, facts = decode_video(f"{clip}#t=0.2,1.6", 7, 24)
    centres = [0.2 + (k + 0.5) * 0.2 for k in range(7)]
    wanted = [max(i for i, start in enumerate(times) if start <= centre + 1e-6) for centre in centres]
    np.testing.assert_allclose(levels(pictures), [level(i) for i in wanted], atol=6)
    np.testing.assert_allclose([start for start, _ in facts["times"]], [times[i] for i in wanted], atol=1e-3)


def test_a_part_that_ends_late_is_cut_and_said_to_be_short(clips):
    pictures, facts = decode_video(f"{clips['mp4']}#frames=36,80", 4, 24)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (36, 37, 38, 39)], atol=4)
    assert facts["short"] == "4 of 44 frames"
    assert "short" not in decode_video(f"{clips['mp4']}#frames=30,41", 4, 24)[1]
    assert decode_video(f"{clips['mp4']}#t=3,6", 4, 24)[1]["short"] == "1.00 of 3.00 s"


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("frames=40,50", r"frames 40 to 50 lie beyond its end \(40 frames\)"),
        ("t=4,5", r"the part from 4 to 5 s lies beyond its end \(4\.00 s\)"),
        ("t=900,901.5", r"the part from 900 to 901\.5 s lies beyond its end"),
    ],
)
def test_a_part_wholly_beyond_the_end_is_an_error(clips, suffix, part, text):
    with pytest.raises(MediaError, match=text):
        decode_video(f"{clips[suffix]}#{part}")


@pytest.mark.parametrize("suffix", ["mp4", "ts"])
@pytest.mark.parametrize("size", [(48, 48), (24, 60)])
def test_a_rectangle_of_the_picture(tmp_path, suffix, size):
    """The upper left quarter is white, so the share of white tells which part is shown."""
    codec = "libx264" if suffix == "mp4" else "mpeg2video"
    clip = write_clip(tmp_path / f"c.{suffix}", 6, (128, 96), fps=25, codec=codec, sound="", corner=True)

    def white(part):
        pictures, _ = decode_video(f"{clip}#xywh=percent:{part}", 2, size)
        assert pictures.shape == (2, *size, 3)
        return float((pictures > 200).mean())

    assert white("0,0,100,100") == pytest.approx(0.25, abs=0.03)
    assert white("0,0,50,50") == pytest.approx(1, abs=0.03)
    assert white("50,0,50,100") == pytest.approx(0, abs=0.03)
    assert white("25,0,50,50") == pytest.approx(0.5, abs=0.05)
    assert white("0,25,25,50") == pytest.approx(0.5, abs=0.05)
    assert white("0,0,2,2") == 1


def test_shortest_keeps_proportions_and_pixels(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", 4, (128, 96), sound="", corner=True)
    assert decode_video(clip, 2, 500, fit="shortest")[0].shape == (2, 96, 128, 3)
    assert decode_video(clip, 2, 48, fit="shortest")[0].shape == (2, 48, 64, 3)
    part = decode_video(f"{clip}#xywh=percent:0,0,50,50", 2, 500, fit="shortest")[0]
    assert part.shape == (2, 48, 64, 3)
    assert part[:, :46, :62].min() > 200
    assert decode_video(f"{clip}#xywh=percent:0,0,50,50", 2, 24, fit="shortest")[0].shape == (2, 24, 32, 3)
    with pytest.raises(MediaError, match="unknown fit 'longest'"):
        decode_video(clip, fit="longest")


def test_very_many_large_pictures_are_refused(tmp_path):
    clip = write_clip(tmp_path / "c.mp4", 2, (1024, 1024), sound="")
    with pytest.raises(MediaError, match="512 pictures of 1024x1024 px are too many"):
        decode_video(clip, 512, 1080, fit="shortest")


# ---- sound


@pytest.mark.parametrize(
    ("suffix", "codec"), [("wav", "pcm_s16le"), ("flac", "flac"), ("m4a", "aac"), ("mp3", "libmp3lame")]
)
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_part_of_a_sound_is_what_the_whole_has_there(tmp_path, suffix, codec, rate):
    path = write_sound(tmp_path / f"t.{suffix}", codec, 2.0, rate)
    whole, _ = decode_audio(path)
    part, facts = decode_audio(f"{path}#t=0.4,1.15")
    assert len(part) == 12000
    assert facts["times"] == [[0.4, 1.15]]
    assert facts["seconds"] == 0.75
    wanted = whole[6400:18400]
    np.testing.assert_allclose(
        part[64:-64], wanted[64:-64], atol=2e-3
    )  # at its edges the resampler has other neighbours
    assert np.abs(part).argmax() == pytest.approx(np.abs(wanted).argmax(), abs=2)


def test_seconds_and_a_part_together_take_the_shorter(tmp_path):
    path = write_wav(tmp_path / "t.wav", tone(1.5, 16000))
    assert len(decode_audio(f"{path}#t=0.5,1.5", seconds=0.25)[0]) == 4000
    assert len(decode_audio(f"{path}#t=0.5,0.75", seconds=1.0)[0]) == 4000


def test_frames_of_a_sound_go_by_the_frame_rate_of_its_pictures(clips, tmp_path):
    part, facts = decode_audio(f"{clips['mp4']}#frames=3,8")
    assert facts["times"] == [[0.3, 0.8]]
    assert np.abs(part).argmax() / 16000 == pytest.approx(0.2, abs=0.005)  # the click at 0.5 s
    seen = decode_video(f"{clips['mp4']}#frames=3,8", 5, 24)[1]["times"]
    assert [seen[0][0], seen[-1][1]] == facts["times"][0]
    voice = write_wav(tmp_path / "t.wav", tone(1.5, 16000))
    with pytest.raises(MediaError, match=r"t\.wav: has no pictures, so frames say nothing"):
        decode_audio(f"{voice}#frames=3,8")


def test_a_rectangle_says_nothing_about_sound(clips):
    whole, _ = decode_audio(clips["mp4"])
    np.testing.assert_array_equal(decode_audio(f"{clips['mp4']}#xywh=percent:0,0,50,100")[0], whole)


def test_parts_of_sound_beyond_the_end(clips, tmp_path):
    path = write_wav(tmp_path / "t.wav", tone(1.5, 16000))
    with pytest.raises(MediaError, match=r"the part from 1\.5 to 2 s lies beyond its end \(1\.50 s\)"):
        decode_audio(f"{path}#t=1.5,2")
    sound, facts = decode_audio(f"{path}#t=1,3")
    assert (len(sound), facts["short"]) == (8000, "0.50 of 2.00 s")
    with pytest.raises(MediaError, match=r"lies beyond its end"):
        decode_audio(f"{clips['mp4']}#t=4.2,5")
    assert decode_audio(f"{clips['mp4']}#t=3.5,4.3")[1]["times"] == [[3.5, 4.0]]  # cut with the pictures


FAR = [("wav", "pcm_s16le"), ("flac", "flac"), ("mp3", "libmp3lame"), ("m4a", "aac"), ("opus", "libopus"), ("mkv", "")]


@pytest.mark.parametrize(("suffix", "codec"), FAR)
def test_a_part_far_from_the_start_is_found_exactly(tmp_path, suffix, codec):
    """Beyond a minute the place is sought; the click of each second tells where it came out."""
    import av

    rate = 48000 if codec == "libopus" else 16000
    path = tmp_path / f"t.{suffix}"
    sound = np.zeros(100 * rate, np.float32)
    sound[np.arange(100) * rate + 800 + 16 * np.arange(100)] = 1.0  # another place in each second
    with av.open(str(path), "w") as container:
        from tests.kit.media import _encode_sound, _sound_stream

        _encode_sound(container, _sound_stream(container, codec or "pcm_s16le", rate, 1), sound, rate, 1)
    whole, _ = decode_audio(path, seconds=99)
    part, facts = decode_audio(f"{path}#t=75,78")
    assert facts["times"] == [[75.0, 78.0]]
    assert len(part) == 48000
    clicks = [int(np.abs(part[k * 16000 : (k + 1) * 16000]).argmax()) for k in range(3)]
    wanted = [int(np.abs(whole[(75 + k) * 16000 : (76 + k) * 16000]).argmax()) for k in range(3)]
    assert clicks == pytest.approx(wanted, abs=2)
    assert clicks == pytest.approx([(800 + 16 * (75 + k)) * 16000 // rate for k in range(3)], abs=0.03 * 16000)


def test_a_part_of_ten_hours_is_read_at_once(tmp_path):
    path = wav_claiming(tmp_path / "long.wav", 36_000)
    import time

    start = time.perf_counter()
    part, facts = decode_audio(f"{path}#t=35000,35002")
    assert time.perf_counter() - start < 5
    assert (len(part), facts["times"]) == (32000, [[35000.0, 35002.0]])
    with pytest.raises(MediaError, match="1000 s of it are asked for, at most 600 s"):
        decode_audio(f"{path}#t=0,1000")


# ---- one time base


def test_picture_and_sound_of_one_part_share_their_times(clips):
    value = f"{clips['mp4']}#t=1.5,3.5"
    _, seen = decode_video(value, 20, 24)
    _, heard = decode_audio(value, window=0.5)
    assert heard["times"] == [[1.5, 2.0], [2.0, 2.5], [2.5, 3.0], [3.0, 3.5]]
    starts = [start for start, _ in seen["times"]]
    np.testing.assert_allclose(starts, np.arange(15, 35) / 10, atol=1e-3)


def test_a_literal_name_with_a_hash_still_works(tmp_path):
    clip = write_clip(tmp_path / "take#2.mp4", 4, sound="")
    assert decode_video(clip, 1, 24)[1]["frame_count"] == 4
    picture = write_png(tmp_path / "p#1.png", np.zeros((8, 8, 3), np.uint8))
    assert picture.exists()
