"""Folders of pictures as clips: order, times, what is ignored and what is refused; pairs of flow components."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media import folder as module
from mmbal_cli.media.folder import members
from mmbal_cli.media.video import decode_video
from tests.kit.media import level, png_claiming, write_clip


def save(path, grey, size=(40, 30)):
    """A grey or coloured picture of one level; suffix decides the format."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L" if isinstance(grey, int) else "RGB", size, grey).save(path)
    return path


def levels(pictures):
    return pictures.mean((1, 2, 3)).tolist()


def filled(folder, count=10, name="frame{:06d}.png", start=1):
    for index in range(count):
        save(folder / name.format(index + start), level(index))
    return folder


# ---- which files, in which order


def test_order_is_by_the_last_number_in_the_name(tmp_path):
    names = [
        "img_10.jpg",
        "img_9.jpg",
        "img_100.jpg",
        "img_1.jpg",
        "cover.jpg",
        "b_2_of_7.jpg",
        "a_2_of_7.jpg",
        "img_07.JPG",
    ]
    for name in names:
        save(tmp_path / name, 9)
    found = [path.name for path in members(tmp_path)]
    assert found[:3] == ["img_1.jpg", "a_2_of_7.jpg", "b_2_of_7.jpg"]
    assert found[3:] == ["img_07.JPG", "img_9.jpg", "img_10.jpg", "img_100.jpg", "cover.jpg"]


def test_hidden_and_foreign_files_and_folders_are_left_out(tmp_path):
    filled(tmp_path, 3)
    save(tmp_path / ".frame000009.png", 9)
    (tmp_path / "._frame000001.png").write_bytes(b"resource fork")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "frame000010.png").mkdir()
    os.mkfifo(tmp_path / "frame000011.png")
    assert [path.name for path in members(tmp_path)] == [f"frame{n:06d}.png" for n in (1, 2, 3)]


def test_a_file_is_its_own_member(tmp_path):
    clip = tmp_path / "clip.mp4"
    assert members(clip) == [clip]


def test_a_link_out_of_the_folder_is_refused_and_one_inside_is_not(tmp_path):
    filled(tmp_path / "clip", 2)
    (tmp_path / "clip" / "frame000003.png").symlink_to("frame000001.png")
    assert len(members(tmp_path / "clip")) == 3
    outside = save(tmp_path / "secret.png", 9)
    (tmp_path / "clip" / "frame000004.png").symlink_to(outside)
    for look in (members, decode_video):
        with pytest.raises(MediaError, match=r"clip: the link 'frame000004\.png' leads out of it"):
            look(tmp_path / "clip")


def test_a_folder_whose_name_begins_like_this_one_is_outside(tmp_path):
    filled(tmp_path / "clip", 1)
    (tmp_path / "clip" / "frame000002.png").symlink_to(save(tmp_path / "clip2" / "a.png", 9))
    with pytest.raises(MediaError, match="leads out of it"):
        members(tmp_path / "clip")


def test_too_many_pictures_are_refused(tmp_path, monkeypatch):
    filled(tmp_path, 4)
    monkeypatch.setattr(module, "MAX_PICTURES", 3)
    with pytest.raises(MediaError, match="holds more than 3 pictures"):
        members(tmp_path)


# ---- as a clip


def test_pictures_have_times_and_parts_like_frames(tmp_path):
    folder = filled(tmp_path / "clip", 10)
    pictures, facts = decode_video(folder, 5, 24)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (1, 3, 5, 7, 9)], atol=1)
    assert facts == {
        "frame_count": 10,
        "stated_frames": 10,
        "fps": 1.0,
        "seconds": 10.0,
        "times": [[1, 2], [3, 4], [5, 6], [7, 8], [9, 10]],
    }
    pictures, facts = decode_video(f"{folder}#t=1,2", 2, 24, folder_fps=5.0)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (6, 8)], atol=1)
    assert facts["times"] == [[1.2, 1.4], [1.6, 1.8]]
    pictures, _ = decode_video(f"{folder}#frames=2,5", 3, 24)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (2, 3, 4)], atol=1)
    pictures, _ = decode_video(folder, 4, 24, "fps", fps=0.5)
    np.testing.assert_allclose(levels(pictures), [level(i) for i in (0, 2, 4, 6)], atol=1)
    with pytest.raises(MediaError, match=r"frames 10 to 12 lie beyond its end \(10 frames\)"):
        decode_video(f"{folder}#frames=10,12")


def test_only_the_pictures_that_are_taken_are_opened(tmp_path):
    folder = filled(tmp_path / "clip", 9)
    (folder / "frame000001.png").write_bytes(b"no picture")
    assert decode_video(folder, 1, 24)[0].shape == (1, 24, 24, 3)
    with pytest.raises(MediaError, match=r"frame000001\.png: cannot be read as a picture"):
        decode_video(folder, 3, 24, "ends")


def test_a_rectangle_and_own_proportions(tmp_path):
    from PIL import Image

    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :20] = 255
    for index in range(3):
        (tmp_path / "clip").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "clip" / f"{index}.png")
    part, _ = decode_video(f"{tmp_path / 'clip'}#xywh=percent:0,0,25,100", 2, 24)
    assert part.min() > 240
    half, _ = decode_video(f"{tmp_path / 'clip'}#xywh=percent:0,0,50,100", 2, 24)
    assert half.mean() == pytest.approx(127, abs=8)
    own, _ = decode_video(tmp_path / "clip", 2, 500, fit="shortest")
    np.testing.assert_array_equal(own, np.stack([pixels] * 2))
    assert decode_video(tmp_path / "clip", 2, 20, fit="shortest")[0].shape == (2, 20, 40, 3)


def test_pictures_of_different_sizes_and_modes(tmp_path):
    save(tmp_path / "clip" / "1.png", 50, (30, 20))
    save(tmp_path / "clip" / "2.png", (50, 50, 50), (64, 90))
    for fit in ("squash", "shortest"):
        pictures, _ = decode_video(tmp_path / "clip", 2, 24, fit=fit)
        np.testing.assert_allclose(levels(pictures), [50, 50], atol=1)


def test_no_pictures_a_bomb_and_a_folder_that_is_not_there(tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(MediaError, match="none: holds no pictures"):
        decode_video(tmp_path / "none")
    (tmp_path / "bomb").mkdir()
    png_claiming(tmp_path / "bomb" / "1.png", 20_000, 20_000)
    with pytest.raises(MediaError, match=r"1\.png: 400 megapixels, at most 50"):
        decode_video(tmp_path / "bomb")
    with pytest.raises(MediaError, match="lost: No such file"):
        decode_video(tmp_path / "lost")


# ---- two components of optical flow


def pair(root, right=(128, 138, 255), down=(128, 118, 128)):
    for half, values in (("u", right), ("v", down)):
        for index, value in enumerate(values):
            save(root / half / "clip" / f"frame{index + 1:06d}.png", value)
    return root / "{u,v}" / "clip"


def test_a_pair_is_seen_as_right_down_and_speed(tmp_path):
    pictures, facts = decode_video(pair(tmp_path), 3, 24, folder_fps=25.0)
    speed = [0, 255 * np.hypot(10, 10) / 127, 255]
    np.testing.assert_allclose(pictures[:, 12, 12], np.stack([(128, 138, 255), (128, 118, 128), speed], 1), atol=1)
    assert facts["times"] == [[0, 0.04], [0.04, 0.08], [0.08, 0.12]]
    assert [path.parent.parent.name for path in members(pair(tmp_path))] == ["u"] * 3 + ["v"] * 3
    np.testing.assert_array_equal(decode_video(pair(tmp_path), 3, 24, show="flow")[0], pictures)


def test_parts_of_a_pair(tmp_path):
    pictures, _ = decode_video(f"{pair(tmp_path)}#frames=1,2&xywh=percent:0,0,50,50", 1, 24)
    assert pictures[0, 12, 12, :2].tolist() == [138, 118]


def test_pairs_that_are_none_are_refused(tmp_path):
    path = pair(tmp_path, (1, 2, 3), (1, 2))
    with pytest.raises(MediaError, match="has 3 pictures in u and 2 in v"):
        decode_video(path)
    with pytest.raises(MediaError, match=r"lost/u/clip: No such file"):
        decode_video(tmp_path / "lost" / "{u,v}" / "clip")
    with pytest.raises(MediaError, match="is optical flow already"):
        decode_video(pair(tmp_path / "again"), show="difference")


def test_braces_in_the_name_of_a_file_mean_nothing(tmp_path):
    clip = write_clip(tmp_path / "a{u,v}b.mp4", 4, sound="")
    assert decode_video(clip, 1, 24)[1]["frame_count"] == 4
