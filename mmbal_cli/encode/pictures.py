"""What a checkpoint's own image processor does to a picture, done with Pillow and numpy, without transformers.

A decoding child must not import transformers, so the processors that the families of `families.py` use are
described here: their defaults, what a checkpoint's settings change, and the one computation they share (resize,
crop of the centre). Scaling and normalisation follow in the model's half, on the device.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mmbal_cli.errors import EncoderError, nearest

BILINEAR, BICUBIC = 2, 3  # Pillow's numbers, which the settings use
CROPPED_BELOW = 384  # ConvNeXt's processor squashes to sizes from here on, and crops the centre for smaller ones
MOST = 1 << 26  # px of a resized picture before its centre is cut out
LARGEST = 4096  # px a side of what a processor may make
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Processor(NamedTuple):
    """Defaults of one class of processors; `square`: a `size` of one number means a square, not an edge."""

    size: Mapping[str, int]
    resample: int
    crop: int | None
    square: bool
    normal: tuple[tuple[float, ...], tuple[float, ...]]


PROCESSORS = {
    "clip": Processor({"shortest_edge": 224}, BICUBIC, 224, False, _CLIP),
    "bit": Processor({"shortest_edge": 224}, BICUBIC, 224, False, _CLIP),
    "vit": Processor({"height": 224, "width": 224}, BILINEAR, None, True, _HALF),
    "deit": Processor({"height": 256, "width": 256}, BICUBIC, 224, True, _HALF),
    "siglip": Processor({"height": 224, "width": 224}, BICUBIC, None, False, _HALF),
    "convnext": Processor({"shortest_edge": 384}, BICUBIC, None, False, _HALF),
    "videomae": Processor({"shortest_edge": 224}, BILINEAR, 224, False, _HALF),
}


def picture_plan(settings: Mapping[str, Any], usual: str) -> dict[str, Any]:
    """The steps of a checkpoint's processor as JSON: resize, resample, crop, size [H,W], scale, mean, std.

    `resize` is {"shortest_edge": n}, {"height": h, "width": w} or None; `crop` [h,w] or None. `usual` is the
    processor of the family, for settings that do not name their own. Raises EncoderError for one not in `PROCESSORS`.
    """
    named = settings.get("image_processor_type") or settings.get("feature_extractor_type") or usual
    kind = re.sub(r"(FeatureExtractor|ImageProcessor|VideoProcessor)?(Fast|Pil)?$", "", str(named)).lower()
    processor = PROCESSORS.get(kind)
    if processor is None:
        raise EncoderError(f"The image processor '{named}' is not known here.", nearest(kind, PROCESSORS))
    resize = _sized(settings.get("size"), processor.square) or dict(processor.size)
    cropping = settings.get("do_center_crop", processor.crop is not None)
    crop = _sized(settings.get("crop_size"), True) or {"height": processor.crop, "width": processor.crop}
    steps: dict[str, Any] = {"resize": resize, "crop": [crop.get("height"), crop.get("width")] if cropping else None}
    if kind == "convnext":
        steps = _convnext(resize, settings.get("crop_pct") or 224 / 256)
    if settings.get("do_resize", True) is False:
        steps["resize"] = None
    size = steps["crop"] or [(steps["resize"] or {}).get(edge) for edge in ("height", "width")]
    numbers = [*size, *(steps["resize"] or {}).values()]
    if not all(isinstance(edge, int) and 0 < edge <= LARGEST for edge in numbers):
        raise EncoderError(f"The settings of the {named} give no fixed size of a picture: {steps}.")
    flat = settings.get("do_normalize", True) is False
    given = (settings.get("image_mean") or processor.normal[0], settings.get("image_std") or processor.normal[1])
    mean, std = ((0.0,) * 3, (1.0,) * 3) if flat else given
    scale = float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 1.0
    resample = settings.get("resample")
    return {
        **steps,
        "resample": processor.resample if resample is None else int(resample),
        "size": size,
        "scale": scale,
        "mean": list(mean),
        "std": list(std),
    }


def _sized(size: Any, square: bool) -> dict[str, Any]:
    """A `size` or `crop_size` as the settings of any year write it, {} for none."""
    if isinstance(size, Mapping):
        return {key: value for key, value in size.items() if value is not None}
    if isinstance(size, int):
        return {"height": size, "width": size} if square else {"shortest_edge": size}
    return {"height": size[0], "width": size[1]} if isinstance(size, (list, tuple)) and len(size) == 2 else {}


def _convnext(resize: Mapping[str, Any], share: float) -> dict[str, Any]:
    """Small sizes: a larger resize and a crop of the centre; large ones: squashed."""
    edge = resize.get("shortest_edge")
    if not isinstance(edge, int) or edge >= CROPPED_BELOW:
        return {"resize": {"height": edge, "width": edge}, "crop": None}
    return {"resize": {"shortest_edge": int(edge / share)}, "crop": [edge, edge]}


def processed(pictures: np.ndarray, plan: Mapping[str, Any]) -> np.ndarray:
    """Pictures uint8 [H,W,3] or [T,H,W,3] of any size -> the same of the plan's `size`, resized and cropped.

    Raises ValueError for a picture that is thousands of times longer than wide.
    """
    if pictures.ndim == 4:
        return np.stack([processed(picture, plan) for picture in pictures])
    picture = np.ascontiguousarray(pictures, np.uint8)
    if plan["resize"]:
        picture = _resized(picture, plan["resize"], plan["resample"])
    if plan["crop"]:
        picture = _centre(picture, *plan["crop"])
    if list(picture.shape[:2]) != list(plan["size"]):
        raise ValueError(f"a picture became {picture.shape[1]}x{picture.shape[0]}, not {plan['size']}")
    return picture


def _resized(picture: np.ndarray, to: Mapping[str, int], resample: int) -> np.ndarray:
    from PIL import Image

    height, width = picture.shape[:2]
    if edge := to.get("shortest_edge"):
        long = int(edge * max(height, width) / min(height, width))
        new = (long, edge) if width <= height else (edge, long)
    else:
        new = (to["height"], to["width"])
    if new[0] * new[1] > MOST:
        raise ValueError(f"a picture of {width}x{height} px is too long for a crop of its centre")
    if new == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((new[1], new[0]), Image.Resampling(resample)))


def _centre(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle [height,width]; a smaller picture gets a black border, an odd pixel of it before the picture."""
    short = [max(0, height - picture.shape[0]), max(0, width - picture.shape[1])]
    if any(short):
        border = [((missing + 1) // 2, missing // 2) for missing in short]
        picture = np.pad(picture, [*border, (0, 0)])
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
