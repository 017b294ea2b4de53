"""The look at headers: each rule with its reason, nothing on sound files, and quick."""

from __future__ import annotations

import os
import sys
import time

import numpy as np
import pytest

from mmbal_cli.media.look import handle, look
from mmbal_cli.media.pool import Pool
from tests.kit.media import not_media, png_claiming, tone, write_clip, write_png, write_sound, write_wav

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
CONTAINERS = [("mp4", "libx264", "aac"), ("mkv", "libx264", "aac"), ("avi", "mpeg4", "libmp3lame")]
CONTAINERS += [("flv", "flv1", "libmp3lame"), ("ts", "libx264", "aac"), ("webm", "libvpx", "")]


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return {
        suffix: write_clip(folder / f"c.{suffix}", 20, fps=10, codec=codec, sound=sound, rate=44100)
        for suffix, codec, sound in CONTAINERS
    }


def noise(height, width):
    return np.random.default_rng(0).integers(0, 255, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize("suffix", [suffix for suffix, _, _ in CONTAINERS])
def test_good_clips_have_no_findings(clips, suffix):
    clip = clips[suffix]
    assert look("video", str(clip), {"seconds": [1.9, 2.2], "size": 96}) == []
    assert look("video", f"{clip}#t=0.5,2&xywh=percent:0,0,50,100", {}) == []
    assert look("video", f"{clip}#frames=5,20", {}) == []
    if suffix != "webm":
        assert look("audio", str(clip), {"seconds": [1.9, 2.2]}) == []
        assert look("audio", f"{clip}#t=0.5,2", None) == []
        assert look("audio", f"{clip}#frames=5,20", {}) == []


@pytest.mark.parametrize("suffix", [suffix for suffix, _, _ in CONTAINERS])
def test_length_size_and_parts_that_are_not_what_they_should_be(clips, suffix):
    clip = clips[suffix]
    (found,) = look("video", str(clip), {"seconds": [3, 9]})
    assert found[0] == "too-short"
    assert f"c.{suffix}: " in found[1]
    assert "s, expected at least 3 s" in found[1]
    assert [rule for rule, _ in look("video", str(clip), {"seconds": [0.1, 1.5]})] == ["too-long"]
    (found,) = look("video", str(clip), {"size": 112})
    assert found == ("too-small", f"{clip}: the picture is 96x96, expected at least 112 px a side")
    (found,) = look("video", f"{clip}#frames=15,25", {})
    assert found == ("too-short", f"{clip}: frames 15 to 25 are meant, it has 20")
    (found,) = look("video", f"{clip}#t=1,3.5", {})
    assert found[0] == "too-short"
    assert "the part from 1 to 3.5 s is meant, it has 2." in found[1]


def test_the_length_of_a_part_counts_where_a_part_is_meant(clips):
    assert look("video", f"{clips['mp4']}#t=0,1", {"seconds": [0.5, 1.5]}) == []
    assert [rule for rule, _ in look("audio", f"{clips['mp4']}#t=0,1", {"seconds": [1.5, 2.5]})] == ["too-short"]
    assert [rule for rule, _ in look("video", f"{clips['mp4']}#frames=0,5", {"seconds": [1, 2]})] == ["too-short"]


def test_missing_tracks(tmp_path, clips):
    voice = write_wav(tmp_path / "v.wav", tone(1, 16000))
    assert look("audio", str(clips["webm"])) == [("no-audio", f"{clips['webm']}: has no audio track")]
    assert look("video", str(voice)) == [("no-video", f"{voice}: has no video track")]
    ((rule, reason),) = look("audio", f"{voice}#frames=1,2")
    assert rule == "no-video"
    assert "frames say nothing about its sound" in reason
    song = write_sound(tmp_path / "song.mp3", "libmp3lame")
    assert look("audio", str(song), {"seconds": [1, 2]}) == []


def test_a_wrong_count_of_frames_in_an_avi_does_not_refuse_a_part(tmp_path):
    clip = write_clip(tmp_path / "c.avi", 20, codec="mpeg4", sound="")
    data = bytearray(clip.read_bytes())
    place = data.index(b"strh") + 8 + 32
    data[place : place + 4] = (5).to_bytes(4, "little")
    clip.write_bytes(data)
    assert look("video", f"{clip}#frames=10,20") == []
    ((rule, reason),) = look("video", f"{clip}#frames=10,30")
    assert (rule, reason) == ("too-short", f"{clip}: frames 10 to 30 are meant, it has 20")


def test_files_that_are_no_media(tmp_path):
    for path in not_media(tmp_path):
        if path.name == "folder.mp4":
            continue
        for kind in ("video", "audio", "image"):
            ((rule, reason),) = look(kind, str(path))
            assert rule == "undecodable", path
            assert reason.startswith(f"{path}: "), reason
    assert look("audio", str(tmp_path / "folder.mp4")) == [
        ("undecodable", f"{tmp_path}/folder.mp4: is not a regular file")
    ]
    assert look("video", str(tmp_path / "folder.mp4")) == [("undecodable", f"{tmp_path}/folder.mp4: holds no pictures")]


@pytest.mark.parametrize(
    ("data", "rule", "text"),
    [
        (POINTER, "lfs-pointer", "a Git LFS pointer: the file itself was not downloaded"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "undecodable", "a web page"),
        (b"\n<HTML>sign in</HTML>", "undecodable", "a web page"),
        ("Größe: 17 MB\n".encode() * 30, "undecodable", "(a text)"),
    ],
)
def test_the_usual_mistakes_are_named(tmp_path, data, rule, text):
    for kind, name in (("video", "c.mp4"), ("audio", "c.wav"), ("image", "c.jpg")):
        path = tmp_path / name
        path.write_bytes(data)
        ((found, reason),) = look(kind, str(path))
        assert found == rule
        assert text in reason


def test_pictures(tmp_path):
    path = write_png(tmp_path / "p.png", noise(30, 50))
    assert look("image", str(path), {"size": 30}) == []
    assert look("image", str(path), {"size": 32}) == [
        ("too-small", f"{path}: the picture is 50x30, expected at least 32 px a side")
    ]
    bomb = png_claiming(tmp_path / "bomb.png", 20_000, 20_000)
    ((rule, reason),) = look("image", str(bomb))
    assert rule == "too-large"
    assert "400 megapixels, at most 50" in reason
    from PIL import Image

    for mode in ("L", "LA", "P", "RGBA", "CMYK", "I;16", "1"):
        made = tmp_path / f"{mode.replace(';', '')}.{'jpg' if mode == 'CMYK' else 'png'}"
        Image.new(mode, (40, 40)).save(made)
        assert look("image", str(made), {"size": 40}) == []


def test_a_clip_that_is_too_large_is_found_before_it_is_decoded(tmp_path):
    wide = write_clip(tmp_path / "wide.mp4", 1, size=(4112, 16), sound="")
    ((rule, reason),) = look("video", str(wide))
    assert rule == "too-large"
    assert "4112x16, at most 4096" in reason


def test_folders_of_pictures(tmp_path):
    for half, count in (("u", 4), ("v", 3)):
        (tmp_path / half / "clip").mkdir(parents=True)
        for index in range(count):
            write_png(tmp_path / half / "clip" / f"{index}.png", noise(20, 30))
    assert look("video", str(tmp_path / "u" / "clip"), {"size": 20}) == []
    assert look("video", f"{tmp_path}/u/clip#frames=0,4") == []
    assert [rule for rule, _ in look("video", str(tmp_path / "u" / "clip"), {"size": 24})] == ["too-small"]
    assert [rule for rule, _ in look("video", f"{tmp_path}/u/clip#frames=0,5")] == ["too-short"]
    ((rule, reason),) = look("video", f"{tmp_path}/{{u,v}}/clip")
    assert rule == "undecodable"
    assert "has 4 pictures in u and 3 in v" in reason
    (tmp_path / "u" / "clip" / "2.png").write_bytes(b"")
    assert look("video", str(tmp_path / "u" / "clip")) == [
        ("undecodable", f"{tmp_path}/u/clip/2.png: is empty"),
    ]
    write_png(tmp_path / "u" / "clip" / "2.png", noise(20, 30))
    (tmp_path / "u" / "clip" / "3.png").unlink()
    assert look("video", f"{tmp_path}/{{u,v}}/clip#frames=0,3") == []


def test_a_misspelt_part_is_a_finding(clips):
    ((rule, reason),) = look("video", f"{clips['mp4']}#t=2,1")
    assert rule == "undecodable"
    assert "ends before it starts" in reason


def test_zero_frames_and_zero_samples(tmp_path):
    empty = write_wav(tmp_path / "none.wav", np.zeros(0, np.float32))
    assert [rule for rule, _ in look("audio", str(empty))] == ["undecodable"]
    none = write_clip(tmp_path / "none.mkv", 0, sound="")
    ((rule, reason),) = look("video", str(none))
    assert rule in ("undecodable", "no-video"), reason


def test_a_pipe_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for kind in ("video", "audio", "image"):
        assert look(kind, str(tmp_path / "pipe.mp4")) == [
            ("undecodable", f"{tmp_path}/pipe.mp4: is not a regular file")
        ]
        assert look(kind, "/dev/zero") == [("undecodable", "/dev/zero: is not a regular file")]


def test_the_child_answers_each_item_by_its_number_and_quickly(tmp_path, clips):
    items = [
        {"modality": "face", "kind": "video", "value": str(clips["mp4"]), "expect": {"seconds": [5, 9], "size": 200}},
        {"modality": "voice", "kind": "audio", "value": str(clips["mp4"]), "expect": {}},
        {"modality": "other", "kind": "audio", "value": str(clips["webm"]), "expect": {}},
        {"modality": "words", "kind": "text", "value": "no path"},
    ]
    assert [(index, rule) for index, rule, _ in handle({"items": items})[0]["found"]] == [
        (0, "too-small"),
        (0, "too-short"),
        (2, "no-audio"),
    ]
    command = [sys.executable, "-P", "-m", "mmbal_cli.media.look"]
    start = time.perf_counter()
    answers = [header["found"] for _, header, _ in Pool(command, 1, 30.0).run([{"items": items}] * 100)]
    assert time.perf_counter() - start < 10
    assert [[rule for _, rule, _ in found] for found in answers] == [["too-small", "too-short", "no-audio"]] * 100
