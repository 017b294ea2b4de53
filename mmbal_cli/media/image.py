"""Still pictures as arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mmbal_cli.media.probe import MAX_PIXELS, check_file, problem

# a list: among Pillow's other formats are some that call external programs
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")


def height_width(size: int | list[int] | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of a decoder's `size`; one number means square."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def decode_image(path: str | Path, size: int | tuple[int, int] = 96) -> np.ndarray:
    """A picture as uint8 [H,W,3]: turned upright, transparency on white, squashed to `size` (H,W).

    Of an animation the first frame. Raises MediaError, from the header alone above 50 megapixels.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    height, width = height_width(size)
    check_file(path)
    Image.MAX_IMAGE_PIXELS = None  # our own limit is lower, and names the size
    try:
        with Image.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                megapixels = picture.width * picture.height / 1e6
                raise problem(path, f"{megapixels:.0f} megapixels, at most {MAX_PIXELS / 1e6:.0f} are read")
            picture.draft("RGB", (width, height))  # JPEG: decode at the nearest larger scale
            flat = _flat(ImageOps.exif_transpose(picture))
            return np.asarray(flat.resize((width, height), Image.Resampling.BILINEAR), np.uint8)
    except (OSError, ValueError, SyntaxError, EOFError, OverflowError) as error:
        raise problem(path, f"cannot be read as a picture ({error})") from None


def _flat(picture: Any) -> Any:
    """RGB without transparency; 16-bit grey is scaled, not clipped."""
    from PIL import Image

    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("RGB")
