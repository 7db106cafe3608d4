"""Decode image files with Pillow, which survives what crashes libpng users.

The mask of an image is in its upright orientation: EXIF orientation is applied
first. Pixels that are fully transparent count as nodata. 16-bit samples keep
their high byte. Only the first frame of a file is read.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import ItemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF")
"""The only decoders that untrusted bytes may reach."""

MAX_PIXELS: Final = 100_000_000
"""Larger images are refused before they are decoded."""

# The size is checked here, as an error; Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None

# What Pillow's parsers raise on damaged files, collected over public corpora.
_DECODE_ERRORS: Final = (
    OSError,
    ValueError,
    SyntaxError,
    TypeError,
    AttributeError,
    LookupError,
    OverflowError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Decode a JPEG, PNG, WebP or TIFF file.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels (width times height) to decode.

    Returns:
        Pixels, uint8 (3, H, W), RGB; and validity, bool (H, W).

    Raises:
        ItemError: ``undecodable``, ``too_large`` or ``unsupported``.
    """
    if not data:
        raise ItemError("undecodable", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, max_pixels)
            return _to_arrays(_upright(image))
    except UnidentifiedImageError as error:
        raise ItemError(
            "undecodable", f"no {', '.join(FORMATS)} file, or damaged"
        ) from error
    except _DECODE_ERRORS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ItemError("undecodable", text) from error


def image_size(head: bytes) -> tuple[int, int]:
    """Height and width, before EXIF orientation, from the first bytes of a file.

    Raises:
        ItemError: ``undecodable``.
    """
    try:
        with Image.open(io.BytesIO(head), formats=FORMATS) as image:
            return image.height, image.width
    except _DECODE_ERRORS as error:
        raise ItemError("undecodable", "the header cannot be read") from error


def _check(image: Image.Image, max_pixels: int) -> None:
    pixels = image.width * image.height
    if pixels > max_pixels:
        raise ItemError(
            "too_large",
            f"{image.width} x {image.height} px exceed {max_pixels} pixels",
        )
    if image.mode in {"F", "I"}:
        raise ItemError(
            "unsupported",
            f"samples of mode {image.mode} have no range; need 8 or 16 bit",
        )


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_arrays(image: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    if image.mode.startswith("I;16"):
        return _from_16_bit(np.asarray(image), image.info.get("transparency"))
    if not image.has_transparency_data:
        pixels = np.asarray(image.convert("RGB"))
        return _bands_first(pixels), np.ones(pixels.shape[:2], dtype=np.bool_)
    pixels = np.asarray(image.convert("RGBA"))
    return _bands_first(pixels[:, :, :3]), pixels[:, :, 3] > 0


def _from_16_bit(
    samples: NDArray[np.uint16], transparent: int | None
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    high = (samples >> 8).astype(np.uint8)
    valid = np.ones(samples.shape, dtype=np.bool_)
    if transparent is not None:
        valid = samples != transparent
    return np.repeat(high[None], 3, axis=0), valid


def _bands_first(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
