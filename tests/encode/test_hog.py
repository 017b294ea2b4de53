"""hog-motion against a plain computation, and what it must and must not react to."""

from __future__ import annotations

import numpy as np
import pytest

from mmbal_cli.encode import get_encoder
from mmbal_cli.errors import EncoderError, RecipeError


def clip(frames=4, size=96, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, size, size, 3)).astype(np.uint8)


def moving(dx, dy, frames=4, seed=0):
    """A smooth bright figure that moves (dx, dy) px a frame, and noise."""
    random_ = np.random.default_rng(seed)
    y, x = np.mgrid[:96, :96]
    x0, y0 = 48 + random_.integers(-6, 7, 2)
    pictures = []
    for t in range(frames):
        distance = np.hypot(x - x0 - dx * t, 0.7 * (y - y0 - dy * t))
        grey = 40 + 160 / (1 + np.exp((distance - 16) / 2)) + random_.normal(0, 4, (96, 96))
        pictures.append(np.repeat(grey[..., None], 3, 2).clip(0, 255))
    return np.array(pictures).astype(np.uint8)


def encode(raw, kind="video", **params):
    return get_encoder("hog-motion", kind, **params).sample(raw, {})


def plain(frames):
    """The 760 numbers from the definition, pixel by pixel, in float64."""
    colour = frames / 255.0
    grey = colour.mean(3)
    count, size = grey.shape[:2]
    seen, gx, gy = [], np.zeros_like(grey), np.zeros_like(grey)
    gx[:, :, 1:-1] = grey[:, :, 2:] - grey[:, :, :-2]
    gy[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    side = size // 8
    for t in range(count):
        table = np.zeros((8, 8, 9))
        for y in range(size):
            for x in range(size):
                angle = np.arctan2(gy[t, y, x], gx[t, y, x]) % np.pi * 9 / np.pi
                low, strength = int(angle), np.hypot(gx[t, y, x], gy[t, y, x]) / side**2
                table[y // side, x // side, low % 9] += strength * (1 - angle + low)
                table[y // side, x // side, (low + 1) % 9] += strength * (angle - low)
        energy = np.pad((table**2).sum(2), 1)
        around = np.array([[energy[i : i + 3, j : j + 3].sum() / 9 for j in range(8)] for i in range(8)])
        table /= np.sqrt(energy[1:-1, 1:-1] + around + 1e-4)[..., None]
        seen.append(np.concatenate([table.ravel(), pooled(colour[t], 4).ravel()]))
    step = np.diff(grey, axis=0)
    maps = [np.abs(step), -gx[1:] * step, -gy[1:] * step]
    motion = [pooled(m.mean(0), cells).ravel() * 10 for m, cells in zip(maps, (8, 6, 6), strict=True)]
    return np.concatenate([np.mean(seen, 0), *motion])


def pooled(values, cells):
    side = len(values) // cells
    return np.array(
        [
            [values[i * side : (i + 1) * side, j * side : (j + 1) * side].mean((0, 1)) for j in range(cells)]
            for i in range(cells)
        ]
    )


@pytest.mark.parametrize("frames", [clip(3, 48), moving(2, -1, 3)[:, :48, 24:72]], ids=["noise", "figure"])
def test_it_is_the_plain_computation(frames):
    found = encode(frames, frames=3, size=48)
    assert found.shape == (760,)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(frames), atol=2e-5)


def test_the_same_clip_gives_the_same_bytes():
    assert encode(clip()).tobytes() == encode(clip().copy()).tobytes()


def test_a_still_clip_and_a_picture_have_no_motion_and_the_same_appearance():
    picture = clip(1)[0]
    still = encode(np.stack([picture] * 4))
    single = encode(picture, kind="image")
    assert not still[624:].any()
    assert not single[624:].any()
    np.testing.assert_allclose(still, single, atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_the_signs_of_the_motion_maps_tell_the_direction(seed):
    for dx, dy in ((2, 0), (-2, 0), (0, 2), (0, -2)):
        found = encode(moving(dx, dy, seed=seed))
        across, down = found[688:724].sum(), found[724:].sum()
        strong, weak = (across, down) if dx else (down, across)
        assert np.sign(strong) == np.sign(dx + dy)
        assert abs(strong) > 3 * abs(weak)


def test_brightness_leaves_the_histograms_nearly_alone():
    dark, bright = encode(moving(2, 0)), encode(moving(2, 0) + 20)
    assert np.abs(dark[:576] - bright[:576]).max() < 0.05
    np.testing.assert_allclose(bright[576:624] - dark[576:624], 20 / 255, atol=1e-3)


def test_segments_are_the_parts_of_the_clip_with_the_pair_that_enters_them():
    frames = clip(6, 48)
    found = encode(frames, frames=6, size=48, segments=3)
    assert found.shape == (3, 760)
    appearance = [encode(frames[i : i + 2], frames=6, size=48)[:624] for i in (0, 2, 4)]
    motion = [encode(part, frames=6, size=48)[624:] for part in (frames[:2], frames[1:4], frames[3:6])]
    np.testing.assert_allclose(found, np.concatenate([appearance, motion], 1), atol=1e-6)


def test_one_frame_a_segment_still_has_motion():
    found = encode(moving(3, 0), segments=4, frames=4)
    assert found.shape == (4, 760)
    assert (found[:, 688:724].sum(1) > 0).all()


def test_decoder_settings_follow_the_kind():
    assert get_encoder("hog-motion", "video", frames=5).decode() == {"frames": 5, "size": 96}
    assert get_encoder("hog-motion", "image", size=48).decode() == {"size": 48}


def test_clips_of_fewer_frames_than_segments_are_masked():
    encoder = get_encoder("hog-motion", "video", frames=6, segments=3, sampling="fps")
    rows = [encoder.sample(clip(frames), {}) for frames in (6, 1, 2, 4)]
    assert [row.shape for row in rows] == [(3, 760), (1, 760), (2, 760), (3, 760)]
    features, mask = encoder.batch(rows)
    assert features.shape == (4, 3, 760)
    assert mask.sum(1).tolist() == [3, 1, 2, 3]
    assert not features[~mask].any()
    np.testing.assert_array_equal(features[2, :2], rows[2])


def test_one_vector_of_any_number_of_frames():
    encoder = get_encoder("hog-motion", "video", sampling="fps")
    features, mask = encoder.batch([encoder.sample(clip(frames), {}) for frames in (1, 3, 8)])
    assert (features.shape, mask.tolist()) == ((3, 760), [True] * 3)


def test_steps_are_the_extents_of_the_segments():
    times = [[k / 2, k / 2 + 0.1] for k in range(6)]
    facts = {"times": times}
    assert get_encoder("hog-motion", "video").steps(facts) == [[0.0, 2.6]]
    assert get_encoder("hog-motion", "video", segments=3).steps(facts) == [[0, 0.6], [1, 1.6], [2, 2.6]]
    assert get_encoder("hog-motion", "video", segments=8, sampling="fps").steps(facts) == times
    assert get_encoder("hog-motion", "image").steps({}) is None


def test_defaults_of_the_decode_settings_leave_no_trace():
    """Caches made before these settings existed keep their fingerprints."""
    plain = get_encoder("hog-motion", "video", sampling="uniform", fps=1.0, folder_fps=1, show="pictures")
    assert plain.decode() == {"frames": 8, "size": 96}
    assert plain.spec() == {
        "name": "hog-motion",
        "version": 1,
        "kind": "video",
        "params": {"frames": 8, "size": 96, "segments": 1},
    }
    assert get_encoder("hog-motion", "video").spec() == plain.spec()
    image = get_encoder("hog-motion", "image")
    assert image.decode() == {"size": 96}
    assert image.spec()["params"] == {"frames": 8, "size": 96, "segments": 1}


def test_decode_settings_reach_the_decoder_and_the_key():
    given = {"sampling": "fps", "fps": 2.0, "folder_fps": 25.0, "show": "flow"}
    encoder = get_encoder("hog-motion", "video", **given)
    assert encoder.decode() == {"frames": 8, "size": 96, **given}
    assert encoder.spec()["params"] == {"frames": 8, "size": 96, "segments": 1, **given}
    again = get_encoder("hog-motion", "video", **encoder.params)
    assert (again.spec(), again.decode()) == (encoder.spec(), encoder.decode())


@pytest.mark.parametrize(
    ("kind", "params", "text"),
    [
        ("video", {"size": 100}, "size is 100.*multiple of 24"),
        ("video", {"segments": 9}, "segments is 9.*at most 8"),
        ("image", {"segments": 2}, "segments is 2.*at most 1"),
        ("video", {"frames": 1000, "size": 480}, "1000 frames of 480 px"),
        ("video", {"frame": 4}, "Did you mean 'frames'"),
        ("video", {"sampling": "middle"}, "video.sampling is 'middle'.*uniform or ends or segment-centre or fps"),
        ("video", {"show": 3}, "video.show is 3.*pictures or flow or difference"),
        ("video", {"fps": 2.0}, "video.fps is 2.0.*used with video.sampling=fps only"),
        ("video", {"sampling": "fps", "fps": "fast"}, "video.fps is 'fast'.*a number"),
        ("video", {"folder_fps": 0}, "video.folder_fps is 0"),
        ("video", {"smapling": "fps"}, "Did you mean 'sampling'"),
        ("image", {"sampling": "ends"}, "no parameter 'sampling'"),
    ],
)
def test_wrong_parameters_are_refused(kind, params, text):
    with pytest.raises(RecipeError, match=text):
        get_encoder("hog-motion", kind, **params)


def test_frames_of_another_shape_are_refused():
    with pytest.raises(EncoderError, match="multiple of 24"):
        encode(np.zeros((2, 90, 96, 3), np.uint8))


def test_rows_of_different_shapes_cannot_be_one_batch():
    with pytest.raises(EncoderError, match="different shapes"):
        get_encoder("hog-motion", "video").batch([np.zeros(760), np.zeros((2, 760))])
