"""Decode image files with Pillow, which survives what crashes libpng users.

The mask of an image is in its upright orientation: EXIF orientation is applied
first. Pixels that are fully transparent count as nodata. 16-bit samples keep
their high byte. Only the first frame of a file is read.

What is untrusted is decoded in a process of its own, by ``jobs.inputs.decoding``.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import (
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from jobs.errors import ItemError
from jobs.inputs.resizing import prepare, resized, shrunk, upright_size
from jobs.sizes import KEEP, resized_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from jobs.inputs.frames import Arrays, Empty

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF")
"""The only decoders that untrusted bytes may reach."""

# Imported by name, so that Pillow need not load all its decoders to find one.
_PLUGINS: Final = (JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin)

MAX_PIXELS: Final = 100_000_000
"""Larger images are refused before they are decoded."""

_STRIP_PIXELS: Final = 2**20
"""Converted at once: 100 million pixels would need a gigabyte for it."""

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
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)


def new_arrays(bands: int, height: int, width: int) -> Arrays:
    """Pixels, uint8 (bands, H, W), and validity, bool (H, W), yet to be filled."""
    shape = (bands, height, width)
    return np.empty(shape, dtype=np.uint8), np.empty(shape[1:], dtype=np.bool_)


def decode_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, empty: Empty = new_arrays
) -> Arrays:
    """Decode a JPEG, PNG, WebP or TIFF file; see ``decode_sized``.

    Returns:
        Pixels, uint8 (3, H, W), RGB; and validity, bool (H, W).
    """
    return decode_sized(data, max_pixels=max_pixels, empty=empty)[0]


def decode_sized(
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    resize: str = KEEP,
    empty: Empty = new_arrays,
) -> tuple[Arrays, tuple[int, int]]:
    """Decode a JPEG, PNG, WebP or TIFF file, and make it smaller or larger.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels (width times height) to decode, and to resize to.
        resize: As in ``jobs.sizes``.
        empty: Gives the arrays to fill.

    Returns:
        Pixels, uint8 (3, H, W), RGB, and validity, bool (H, W); and rows and columns of
        the upright image in the file.

    Raises:
        ItemError: ``undecodable``, ``too_large`` or ``unsupported``.
        MemoryError: It does not fit.
    """
    if not data:
        raise ItemError("undecodable", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, max_pixels)
            whole = upright_size(image)
            prepare(image, resize, max_pixels)
            size = resized_size(resize, *whole)
            upright = _upright(image)
            if resize != KEEP:
                upright = shrunk(upright, size)
            is_sized = resize == KEEP or (upright.height, upright.width) == size
            make = empty if is_sized else new_arrays
            arrays = make(3, upright.height, upright.width)
            _fill(upright, *arrays)
            return arrays if is_sized else resized(arrays, size, empty), whole
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


def _fill(image: Image.Image, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
    """Convert strip by strip: no mode's pixels depend on their neighbours."""
    transparent = image.info.get("transparency")
    is_16_bit, has_alpha = image.mode.startswith("I;16"), image.has_transparency_data
    for rows, strip in _strips(image):
        if is_16_bit:
            samples = np.asarray(strip)
            pixels[:, rows] = samples >> 8
            valid[rows] = True if transparent is None else samples != transparent
        elif has_alpha:
            samples = np.asarray(strip.convert("RGBA"))
            pixels[:, rows] = samples[:, :, :3].transpose(2, 0, 1)
            np.greater(samples[:, :, 3], 0, out=valid[rows])
        else:
            pixels[:, rows] = np.asarray(strip.convert("RGB")).transpose(2, 0, 1)
            valid[rows] = True


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    if image.width * image.height <= _STRIP_PIXELS:
        yield slice(None), image
        return
    step = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _decode(fields: dict[str, Any], data: bytes, empty: Empty) -> tuple[int, int]:
    limits = {"max_pixels": fields["max_pixels"], "resize": fields["resize"]}
    return decode_sized(data, **limits, empty=empty)[1]


def _size(_fields: dict[str, Any], data: bytes, _empty: Empty) -> tuple[int, int]:
    return image_size(data)


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {"decode": _decode, "size": _size}
"""What a decoder of images does, by name."""
