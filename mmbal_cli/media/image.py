"""Still pictures as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import MAX_PIXELS, check_file, problem, what_it_is

# a list: among Pillow's other formats are some that call external programs
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
ORIENTATION = 274  # tag of EXIF


def height_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a decoder's `size`; one number means square."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def decode_image(path: str | Path, size: int | tuple[int, int] = 96, fit: str = "squash") -> np.ndarray:
    """A picture as uint8 [H,W,3]: turned upright, transparency on white.

    `fit` squash: resized to `size` (H,W). shortest: at its own size, or where its shorter side has more than `size`
    px, shrunk to that, with its proportions. Of an animation the first frame. Raises MediaError, from the header
    alone above 50 megapixels.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    height, width = height_width(size)
    with _opened(path) as picture:
        if fit == "squash":
            picture.draft("RGB", (width, height))  # JPEG: decode at the nearest larger scale
        upright = ImageOps.exif_transpose(picture)
        if fit == "shortest":
            height, width = shrunk(upright.height, upright.width, min(height, width))
        flat = _flat(upright)
        if flat.size != (width, height):
            flat = flat.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(flat, np.uint8)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture turned upright, from its header; raises MediaError."""
    with _opened(path) as picture:
        turned = picture.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return (picture.width, picture.height) if turned else (picture.height, picture.width)


def shrunk(height: int, width: int, edge: int) -> tuple[int, int]:
    """(height, width) with a shorter side of at most `edge` px and the same proportions; never larger."""
    share = min(1.0, edge / min(height, width))
    return max(1, round(height * share)), max(1, round(width * share))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A picture with its header read; MediaError for whatever goes wrong with it, also later."""
    from PIL import Image

    check_file(path)
    Image.MAX_IMAGE_PIXELS = None  # our own limit is lower, and names the size
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                megapixels = picture.width * picture.height / 1e6
                raise problem(path, f"{megapixels:.0f} megapixels, at most {MAX_PIXELS / 1e6:.0f} are read")
            yield picture
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        found = what_it_is(path) or error
        raise problem(path, f"cannot be read as a picture ({found})") from None


def _flat(picture: Any) -> Any:
    """RGB without transparency; 16-bit grey is scaled, not clipped."""
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")
