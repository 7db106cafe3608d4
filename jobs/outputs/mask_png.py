"""Masks as PNG: class ids with or without a palette, or ids of segments as colours."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo

IGNORE: Final = 255
"""What training leaves out: nodata, and what is below the confidence asked for."""

_FIRST_OTHER: Final = 254
_IGNORE_COLOR: Final = (224, 224, 192)
"""As in the masks of PASCAL VOC."""

_LEVEL: Final = 3
"""Of compression."""


def make_palette(classes: Sequence[ClassInfo]) -> bytes:
    """Red, green and blue of all 256 values."""
    colors = np.zeros((256, 3), dtype=np.uint8)
    colors[: len(classes)] = [one.color for one in classes]
    colors[_FIRST_OTHER:] = _IGNORE_COLOR
    return colors.tobytes()


def encode_mask(mask: NDArray[np.uint8], palette: bytes | None = None) -> bytes:
    """A PNG of class ids; whatever has no class is 255.

    Args:
        mask: uint8 (H, W).
        palette: Red, green and blue of each value; None for grey.
    """
    image = Image.fromarray(np.where(mask < _FIRST_OTHER, mask, np.uint8(IGNORE)))
    if palette is not None:
        image.putpalette(palette)
    return _save(image)


def encode_ids(mask: NDArray[np.uint8]) -> bytes:
    """A PNG of COCO panoptic: class + 1 as red + 256 green; 0 where there is no class.

    Args:
        mask: uint8 (H, W).
    """
    pixels = np.zeros((*mask.shape, 3), dtype=np.uint8)
    # There are at most 254 classes, so that one byte holds them.
    pixels[..., 0] = np.where(mask < _FIRST_OTHER, mask + np.uint8(1), np.uint8(0))
    return _save(Image.fromarray(pixels))


def decode_mask(data: bytes) -> NDArray[np.uint8]:
    """The values of a PNG of one byte a pixel, uint8 (H, W), whatever its palette.

    Raises:
        ValueError: It is no such PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in {"L", "P"}:
                raise ValueError(f"a mask has one byte a pixel, it is {image.mode}")
            return np.array(image)
    except (OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"a mask is no PNG ({error})") from error


def _save(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=_LEVEL)
    return buffer.getvalue()
