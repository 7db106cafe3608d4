"""Decode masks that are image files: ids or colours, exactly as they are stored.

Ids come as one band, or as two of high and low bytes where a file has 16 bits; colours as
three. What is untrusted is decoded in a process of its own, by
``jobs.inputs.truth_decoding``.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)

from jobs.errors import ItemError
from jobs.inputs.images import DECODE_ERRORS, check_png
from jobs.inputs.wide_ids import split_wide

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

    from jobs.inputs.frames import Empty

FORMATS: Final = ("PNG", "TIFF", "BMP", "GIF", "JPEG")
"""What masks may be; the last two are known to be refused, with the reason."""

# Imported by name, so that Pillow need not load all its decoders to find one.
_PLUGINS: Final = (
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
)


def decode_mask(
    data: bytes, *, max_pixels: int, colors: Collection[str], by_color: bool, empty: Empty
) -> None:
    """Decode a mask into arrays of 1, 2 or 3 bands.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels (width times height) to decode.
        colors: Of classes, such as ``#804080``: a palette of which no other colour is used
            stands for colours; any other for its indices.
        by_color: Whether every palette stands for colours.
        empty: Gives the arrays to fill.

    Raises:
        ItemError: ``undecodable``, ``too_large`` or ``unsupported``.
        MemoryError: It does not fit.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check(image, max_pixels)
            if image.format == "PNG":
                check_png(data)
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            bands, known = _split(image, colors, by_color=by_color)
            pixels, valid = empty(len(bands), *bands.shape[1:])
            pixels[:], valid[:] = bands, known
    except DECODE_ERRORS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ItemError("undecodable", text) from error


def _check(image: Image.Image, max_pixels: int) -> None:
    if image.width * image.height > max_pixels:
        text = f"{image.width} x {image.height} px exceed {max_pixels} pixels"
        raise ItemError("too_large", text)
    if image.format == "JPEG":
        raise ItemError(
            "unsupported", "JPEG changes the ids and colours of a mask; give PNG or TIFF"
        )
    if image.format == "GIF":
        raise ItemError(
            "unsupported", "GIF is written with its ids in another order; give PNG or TIFF"
        )


def _split(
    image: Image.Image, colors: Collection[str], *, by_color: bool
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | bool]:
    """Bands (1 to 3, H, W), and where they are known."""
    if image.mode == "P" and not (by_color or _is_colored(image, colors)):
        return np.asarray(image)[np.newaxis], True
    if image.mode == "L":
        return np.asarray(image)[np.newaxis], True
    if image.mode == "1":
        return np.asarray(image, dtype=np.uint8)[np.newaxis], True
    if image.mode.startswith("I"):
        return split_wide(np.asarray(image)), True
    if image.mode == "LA":
        grey, alpha = np.asarray(image).transpose(2, 0, 1)
        return grey[np.newaxis], alpha > 0
    if image.mode not in {"P", "PA", "RGB", "RGBA"}:
        text = f"a mask holds ids or RGB colours, got samples of mode {image.mode}"
        raise ItemError("unsupported", text)
    samples = np.asarray(image.convert("RGBA")).transpose(2, 0, 1)
    return samples[:3], samples[3] > 0


def _is_colored(image: Image.Image, colors: Collection[str]) -> bool:
    """Whether all colours that a palette is used for are among some."""
    palette = np.array(image.getpalette("RGB") or [], dtype=np.uint8).reshape(-1, 3)
    used = np.unique(np.asarray(image))
    if not palette.size or used.max() >= len(palette):
        return False
    shades = {"#{:02x}{:02x}{:02x}".format(*color) for color in palette[used].tolist()}
    return shades <= set(colors)


def _mask(fields: dict[str, Any], data: bytes, empty: Empty) -> None:
    decode_mask(
        data,
        max_pixels=fields["max_pixels"],
        colors=fields["colors"],
        by_color=fields["by_color"],
        empty=empty,
    )


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {"mask": _mask}
"""What a decoder of masks does, by name."""
