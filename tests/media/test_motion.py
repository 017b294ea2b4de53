"""What moves between frames: flow of known displacements, its rendering, and the plain difference."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mmbal_cli.errors import MediaError
from mmbal_cli.media import motion
from mmbal_cli.media.video import decode_video

HERE = Path("clip.mp4")


def scene(size, steps):
    """Smooth random texture that moves by (right, down) px at each of `steps`, uint8 [len(steps)+1,size,size,3]."""
    from scipy.ndimage import gaussian_filter, shift

    wide = gaussian_filter(np.random.default_rng(0).random((size + 80, size + 80)), 2.5)
    wide = (wide - wide.min()) / (wide.max() - wide.min()) * 255
    frames, place = [], np.zeros(2)
    for step in [(0, 0), *steps]:
        place = place + step
        grey = shift(wide, place[::-1], order=3)[40:-40, 40:-40].clip(0, 255)
        frames.append(np.repeat(grey[..., None], 3, 2))
    return np.array(frames).astype(np.uint8)


def folder_of(path, frames):
    from PIL import Image

    path.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{index}.png")
    return path


@pytest.mark.parametrize("size", [96, 224])
@pytest.mark.parametrize("step", [(3, -2), (0.5, 0.25), (-8, 5), (0, 0)])
def test_flow_of_a_known_displacement(size, step):
    found = motion.flow(HERE, *scene(size, [step]))
    inside = found[:, 12:-12, 12:-12]
    assert np.hypot(inside[0] - step[0], inside[1] - step[1]).mean() < 0.15


def test_flow_is_the_same_each_time():
    frames = scene(96, [(3, -2)])
    assert motion.flow(HERE, *frames).tobytes() == motion.flow(HERE, *frames).tobytes()


def test_right_is_red_down_is_green_and_blue_is_speed():
    right, down = np.array([[0.0, 10, -10, 0, 0, 60]]), np.array([[0.0, 0, 0, 10, -10, -60]])
    red, green, blue = np.moveaxis(motion.seen(right / motion.REACH, down / motion.REACH), -1, 0)[:, 0].tolist()
    assert red == pytest.approx([128, 192, 64, 128, 128, 255], abs=1)
    assert green == pytest.approx([128, 128, 128, 192, 64, 1], abs=1)
    assert blue == pytest.approx([0, 128, 128, 128, 128, 255], abs=1)


def test_each_frame_is_compared_with_its_successor_and_the_last_with_its_predecessor(tmp_path):
    steps = [(2, 0), (6, 0), (-4, 0), (0, 4)]
    folder = folder_of(tmp_path / "clip", scene(96, steps))
    shown, facts = decode_video(folder, 5, 96, show="flow")
    plain, plain_facts = decode_video(folder, 5, 96)
    assert facts == plain_facts
    assert shown.shape == plain.shape
    middle = np.median(shown[:, 16:-16, 16:-16].reshape(5, -1, 3), axis=1)
    wanted = [(right * 127 / 20 + 128, down * 127 / 20 + 128) for right, down in [*steps, steps[-1]]]
    np.testing.assert_allclose(middle[:, :2], wanted, atol=3)
    np.testing.assert_allclose(middle[:, 2], [np.hypot(*step) * 255 / 20 for step in [*steps, steps[-1]]], atol=5)


def test_the_successor_may_lie_behind_the_part_that_is_meant(tmp_path):
    folder = folder_of(tmp_path / "clip", scene(96, [(2, 0), (6, 0), (-4, 0)]))
    shown, _ = decode_video(f"{folder}#frames=1,2", 1, 96, show="flow")
    assert np.median(shown[0, 16:-16, 16:-16, 0]) == pytest.approx(128 + 6 * 127 / 20, abs=3)
    shown, _ = decode_video(f"{folder}#frames=1,2&xywh=percent:25,25,50,50", 1, 96, show="flow")
    assert np.median(shown[0, 16:-16, 16:-16, 0]) == pytest.approx(128 + 12 * 127 / 20, abs=5)  # at the decoded size


def test_flow_of_a_real_video(tmp_path):
    import av

    frames = scene(96, [(3, -2)] * 7)
    path = tmp_path / "c.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "10"})
        stream.width = stream.height = 96
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    shown, _ = decode_video(path, 3, 96, "ends", show="flow")
    middle = np.median(shown[:, 20:-20, 20:-20].reshape(3, -1, 3), axis=1)
    np.testing.assert_allclose(middle[:, :2], [[128 + 3 * 127 / 20, 128 - 2 * 127 / 20]] * 3, atol=4)


def test_one_frame_does_not_move(tmp_path):
    folder = folder_of(tmp_path / "clip", scene(48, []))
    assert np.unique(decode_video(folder, 2, 48, show="difference")[0]).tolist() == [128]
    shown, _ = decode_video(folder, 2, 48, show="flow")
    np.testing.assert_array_equal(np.unique(shown[0].reshape(-1, 3), axis=0), [[128, 128, 0]])


@pytest.mark.parametrize("size", [motion.SMALLEST, 17, 24, 40, (24, 100), (400, 24)])
def test_small_and_long_pictures(size):
    height, width = (size, size) if isinstance(size, int) else size
    frames = np.random.default_rng(0).integers(0, 255, (2, height, width, 3)).astype(np.uint8)
    assert motion.flow(HERE, *frames).shape == (2, height, width)
    assert np.isfinite(motion.flow(HERE, *frames)).all()


def test_too_small_pictures_are_refused():
    with pytest.raises(MediaError, match="needs pictures of 16 px a side"):
        motion.flow(HERE, *np.zeros((2, 15, 40, 3), np.uint8))


def test_without_opencv_the_setting_names_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(MediaError, match="pip install opencv-python-headless"):
        motion.flow(HERE, *np.zeros((2, 40, 40, 3), np.uint8))


def test_difference_is_later_minus_earlier_around_128(tmp_path):
    greys = [100, 140, 20, 255, 0]
    folder = folder_of(
        tmp_path / "clip", np.array(greys, np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    )
    shown, _ = decode_video(folder, 5, 8, show="difference")
    wanted = [128 + (later - earlier) // 2 for earlier, later in itertools.pairwise(greys)]
    assert shown[:, 4, 4, 0].tolist() == [*wanted, wanted[-1]]
    assert shown[0, 0, 0].tolist() == [148] * 3


def test_an_unknown_way_to_show_is_refused(tmp_path):
    folder = folder_of(tmp_path / "clip", scene(16, []))
    with pytest.raises(MediaError, match="unknown show 'optical', known: pictures, flow, difference"):
        decode_video(folder, show="optical")
