"""Pictures, texts and vectors."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from mmbal_cli.errors import MediaError
from mmbal_cli.media.image import decode_image
from mmbal_cli.media.text import read_text_file, read_vector
from tests.kit.media import png_claiming, write_png

HALVES = np.zeros((40, 60, 3), np.uint8)
HALVES[:, :30], HALVES[:, 30:] = (200, 30, 10), (10, 90, 250)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tiff", "ppm"])
def test_every_format_gives_upright_rgb_of_the_asked_size(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(HALVES).save(path)
    picture = decode_image(path, (20, 48))
    assert picture.shape == (20, 48, 3)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture[:, :20].mean((0, 1)), HALVES[0, 0], atol=8)
    np.testing.assert_allclose(picture[:, -20:].mean((0, 1)), HALVES[0, -1], atol=8)


def test_size_may_be_one_number(tmp_path):
    assert decode_image(write_png(tmp_path / "p.png", HALVES), 24).shape == (24, 24, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    clear = np.zeros((8, 8, 4), np.uint8)
    clear[:, 4:] = (0, 0, 0, 255)
    picture = Image.fromarray(clear).convert(mode)
    if mode == "P":
        picture.info["transparency"] = picture.getpixel((0, 0))
    picture.save(tmp_path / "p.png")
    found = decode_image(tmp_path / "p.png", 8)
    if mode != "P":  # one colour of a palette is clear, and both halves are black here
        assert found[:, 4:].max() == 0
    assert found[:, :4].min() == 255


def test_palette_grey_and_two_level_pictures_are_rgb(tmp_path):
    for mode in ("P", "L", "1", "CMYK"):
        Image.fromarray(HALVES).convert(mode).save(tmp_path / f"{mode}.tiff")
        assert decode_image(tmp_path / f"{mode}.tiff", 16).shape == (16, 16, 3)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((8, 8), 32768, np.uint16)).save(tmp_path / "p.png")
    assert set(decode_image(tmp_path / "p.png", 8).ravel()) == {128}


def test_the_orientation_tag_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    Image.fromarray(HALVES).save(tmp_path / "p.jpg", exif=exif)
    turned = decode_image(tmp_path / "p.jpg", (60, 40))
    np.testing.assert_allclose(turned[:20].mean((0, 1)), HALVES[0, 0], atol=8)


def test_a_bomb_is_refused_from_its_header(tmp_path):
    with pytest.raises(MediaError, match="400 megapixels, at most 50"):
        decode_image(png_claiming(tmp_path / "p.png", 20000, 20000))
    with pytest.raises(MediaError):
        decode_image(png_claiming(tmp_path / "q.png", 70000, 70000))


def test_formats_that_run_programs_are_refused(tmp_path):
    (tmp_path / "p.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    with pytest.raises(MediaError, match="cannot be read as a picture"):
        decode_image(tmp_path / "p.png")


def test_a_text_file_is_utf8_with_or_without_a_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffgrüße\n".encode())
    assert read_text_file(tmp_path / "a.txt") == "grüße\n"


def test_texts_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("grüße".encode("latin-1"))
    (tmp_path / "long.txt").write_bytes(b"a" * (1 << 20) + b"b")
    for name, reason in (("latin.txt", "no UTF-8"), ("long.txt", "more than 1 MiB"), ("none.txt", "No such file")):
        with pytest.raises(MediaError, match=reason):
            read_text_file(tmp_path / name)


def test_vectors_from_numbers_and_from_files(tmp_path):
    assert read_vector([1, 2.5, -3]).tolist() == [1, 2.5, -3]
    np.save(tmp_path / "v.npy", np.arange(6).reshape(2, 3))
    assert read_vector(tmp_path / "v.npy").dtype == np.float32
    assert read_vector(str(tmp_path / "v.npy")).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_vectors_that_are_none_are_refused(tmp_path):
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "deep.npy", np.zeros((2, 2, 2)))
    np.save(tmp_path / "empty.npy", np.zeros(0))
    np.savez(tmp_path / "zip.npz", a=np.zeros(3))
    np.save(tmp_path / "cut.npy", np.zeros(1000))
    cut = (tmp_path / "cut.npy").read_bytes()
    (tmp_path / "cut.npy").write_bytes(cut.replace(b"(1000,)", b"(9000000000000,)").replace(b"         \n", b"\n"))
    for path in tmp_path.iterdir():
        with pytest.raises(MediaError, match=path.name):
            read_vector(path)
    with pytest.raises(MediaError):
        read_vector([])
