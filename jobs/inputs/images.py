"""Decode image files with Pillow, which survives what crashes libpng users.

The mask of an image is in its upright orientation: EXIF orientation is applied
first. Pixels that are fully transparent count as nodata. Samples of more than 8
bits keep their highest 8; grey stands three times; CMYK and YCCK become RGB as
Pillow does it, without colour profiles. Of a file of several frames or pages the
first one is read, of HEIC the primary one.

What is untrusted is decoded in a process of its own, by ``jobs.inputs.decoding``.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from jobs.errors import ItemError
from jobs.inputs.frames import origin_fields
from jobs.inputs.resizing import prepare, resized, shrunk, upright_size
from jobs.job import Origin
from jobs.sizes import KEEP, resized_size

try:  # an extra of ours
    import pillow_heif

    # A decoder has one core; each thread more takes of its memory.
    pillow_heif.register_heif_opener(thumbnails=False, decode_threads=1)
    _has_heif = True
except ImportError:
    _has_heif = False

AvifImagePlugin.DEFAULT_MAX_THREADS = 1

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from jobs.inputs.frames import Arrays, Empty

FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")
"""The only decoders that untrusted bytes may reach."""

# Imported by name, so that Pillow need not load all its decoders to find one.
_PLUGINS: Final = (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

_CODECS: Final = {
    "AVIF": (AvifImagePlugin.SUPPORTED, "a Pillow that was built with libavif"),
    "HEIF": (_has_heif, "pip install 'atrous[heif]'"),
}
"""Formats that not every installation reads: whether this one does, and what would."""

_READ: Final = tuple(kind for kind in FORMATS if _CODECS.get(kind, (True, ""))[0])

_BRANDS: Final = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIF"
)
"""What stands in an ISO media file (ISO/IEC 23008-12) whose image is one of these."""

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY_STEPS: Final = {"L;2": 85, "L;4": 17}
"""What Pillow multiplies grey of 2 and 4 bits with, but for the one that is clear."""

_UPRIGHT: Final = 1
_ORIENTATION: Final = 0x0112
_ORIENTATIONS: Final = range(1, 9)

MAX_PIXELS: Final = 100_000_000
"""Larger images are refused before they are decoded."""

_STRIP_PIXELS: Final = 2**20
"""Converted at once: 100 million pixels would need a gigabyte for it."""

# The size is checked here, as an error; Pillow would only warn.
Image.MAX_IMAGE_PIXELS = None

# What Pillow's parsers raise on damaged files, collected over public corpora.
DECODE_ERRORS: Final = (
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
    data: bytes,
    *,
    max_pixels: int = MAX_PIXELS,
    resize: str = KEEP,
    empty: Empty = new_arrays,
) -> tuple[Arrays, Origin]:
    """Decode an image file of one of ``FORMATS``, and make it smaller or larger.

    Args:
        data: The file's bytes.
        max_pixels: Most pixels (width times height) to decode, and to resize to.
        resize: As in ``jobs.sizes``.
        empty: Gives the arrays to fill.

    Returns:
        Pixels, uint8 (3, H, W), RGB, and validity, bool (H, W); and what the file is.

    Raises:
        ItemError: ``undecodable``, ``too_large`` or ``unsupported``.
        MemoryError: It does not fit.
    """
    if not data:
        raise ItemError("undecodable", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_READ) as image:
            _check(image, max_pixels)
            if image.format == "PNG":
                check_png(data)
                _mend_transparency(image)
            frames, whole = _count_frames(image, data), upright_size(image)
            stored = image.size
            prepare(image, resize, max_pixels)
            is_reduced = image.size != stored
            kind, orientation = image.format or "", _upright(image)
            _check(image, max_pixels)  # of a few formats only pixels tell the size
            if not is_reduced:
                whole = image.height, image.width
            arrays = _fill_resized(image, resize, whole, empty)
            return arrays, Origin(
                format="JPEG" if kind == "MPO" else kind,
                orientation=orientation,
                frames=frames,
                height=whole[0],
                width=whole[1],
            )
    except UnidentifiedImageError as error:
        raise _refusal(data) from error
    except DECODE_ERRORS as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ItemError("undecodable", text) from error


def image_size(head: bytes) -> tuple[int, int]:
    """Height and width, before EXIF orientation, from the first bytes of a file.

    Raises:
        ItemError: ``undecodable``.
    """
    try:
        with Image.open(io.BytesIO(head), formats=_READ) as image:
            return image.height, image.width
    except DECODE_ERRORS as error:
        size = _peek_size(head)
        if size is not None:
            return size
        raise ItemError("undecodable", "the header cannot be read") from error


def _peek_size(head: bytes) -> tuple[int, int] | None:
    """Height and width of a WebP or AVIF file, which Pillow opens as a whole alone."""
    if head[8:12] in _BRANDS:
        # The largest is the image's own; others are of its parts and previews.
        parts = [part[4:12] for part in head.split(b"ispe")[1:] if len(part) >= 12]  # noqa: PLR2004
        sides = (struct.unpack(">II", part) for part in parts)
        return max(((h, w) for w, h in sides), default=None)
    kind = head[12:16] if head[8:12] == b"WEBP" and len(head) >= 30 else b""  # noqa: PLR2004
    if kind == b"VP8X":
        width, height = (int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        return 1 + height, 1 + width
    if kind == b"VP8L":
        packed = int.from_bytes(head[21:25], "little")
        return 1 + (packed >> 14 & 0x3FFF), 1 + (packed & 0x3FFF)
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return height & 0x3FFF, width & 0x3FFF
    return None


def _refusal(data: bytes) -> ItemError:
    """Why no decoder takes a file."""
    kind = _BRANDS.get(data[8:12], "") if data[4:8] == b"ftyp" else ""
    is_there, wanted = _CODECS.get(kind, (True, ""))
    if not is_there:
        text = f"it is {kind}, which needs {wanted} wherever replicas run"
        return ItemError("unsupported", text)
    return ItemError("undecodable", f"no {', '.join(FORMATS)} file, or damaged")


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


def check_png(data: bytes) -> None:
    """Check the checksums of all chunks that pixels depend on, which Pillow does not.

    Raises:
        ItemError: ``undecodable``.
    """
    at, view = len(_PNG_SIGNATURE), memoryview(data)
    name = b""
    while name != b"IEND" and at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        name, checksum = data[at + 4 : at + 8], data[end : end + 4]
        # Whoever reads must know those with a capital. That a file is cut is told later.
        must_know = name[:1].isupper() and end + 4 <= len(data)
        if must_know and zlib.crc32(view[at + 4 : end]) != int.from_bytes(checksum):
            text = f"the checksum of a chunk {name.decode('latin-1')} is wrong"
            raise ItemError("undecodable", text)
        at = end + 4


def _mend_transparency(image: Image.Image) -> None:
    """Bring the colour that is clear to 8 bits, where Pillow brings only the others."""
    tiles, clear = getattr(image, "tile", ()), image.info.get("transparency")
    kind = tiles[0].args if tiles else ""
    if kind in _GREY_STEPS and isinstance(clear, int):
        image.info["transparency"] = clear * _GREY_STEPS[kind]
    elif kind == "RGB;16B" and isinstance(clear, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in clear)


def _count_frames(image: Image.Image, data: bytes) -> int:
    """How many frames or pages there are; of a damaged file, as many as are found."""
    if image.format not in {"GIF", "TIFF"}:
        return int(getattr(image, "n_frames", 1))
    # These are counted by going through the file, which leaves an image elsewhere.
    with Image.open(io.BytesIO(data), formats=_READ) as walker:
        try:
            return int(getattr(walker, "n_frames", 1))
        except DECODE_ERRORS:
            return int(walker.tell()) + 1


def _upright(image: Image.Image) -> int:
    """Turn an image upright, in place; the orientation that it had."""
    image.load()
    # Of HEIC it is 1, whatever EXIF says: its own boxes turn it, and the codec does.
    found = image.getexif().get(_ORIENTATION, _UPRIGHT)
    ImageOps.exif_transpose(image, in_place=True)
    # A number of another kind may be equal to one of them.
    return int(found) if found in _ORIENTATIONS else _UPRIGHT


def _fill_resized(
    image: Image.Image, resize: str, whole: tuple[int, int], empty: Empty
) -> Arrays:
    """Arrays of an upright image at the size that is asked for."""
    size = resized_size(resize, *whole)
    if resize != KEEP:
        image = shrunk(image, size)
    is_sized = (image.height, image.width) == size
    arrays = (empty if is_sized else new_arrays)(3, image.height, image.width)
    _fill(image, *arrays)
    return arrays if is_sized else resized(arrays, size, empty)


def _fill(image: Image.Image, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
    """Convert strip by strip: no mode's pixels depend on their neighbours."""
    transparent = image.info.get("transparency")
    is_16_bit, has_alpha = image.mode.startswith("I;16"), image.has_transparency_data
    shift, inverted = _find_scale(image) if is_16_bit else (0, False)
    for rows, strip in _strips(image):
        if is_16_bit:
            samples = np.asarray(strip)
            pixels[:, rows] = (~samples if inverted else samples) >> shift
            valid[rows] = True if transparent is None else samples != transparent
        elif has_alpha:
            samples = np.asarray(strip.convert("RGBA"))
            pixels[:, rows] = samples[:, :, :3].transpose(2, 0, 1)
            np.greater(samples[:, :, 3], 0, out=valid[rows])
        else:
            pixels[:, rows] = np.asarray(strip.convert("RGB")).transpose(2, 0, 1)
            valid[rows] = True


def _find_scale(image: Image.Image) -> tuple[int, bool]:
    """How far samples of 16 bits are to be shifted, and whether 0 is white.

    Pillow gives 12 bits of a TIFF as they are, and leaves white where it is 0 alone
    when samples have 16 bits.
    """
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(TiffImagePlugin.BITSPERSAMPLE, (16,))[0]
    return bits - 8, tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0


def _strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    if image.width * image.height <= _STRIP_PIXELS:
        yield slice(None), image
        return
    step = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        bottom = min(top + step, image.height)
        yield slice(top, bottom), image.crop((0, top, image.width, bottom))


def _decode(fields: dict[str, Any], data: bytes, empty: Empty) -> dict[str, Any]:
    limits = {"max_pixels": fields["max_pixels"], "resize": fields["resize"]}
    return origin_fields(decode_image(data, **limits, empty=empty)[1])


def _size(_fields: dict[str, Any], data: bytes, _empty: Empty) -> tuple[int, int]:
    return image_size(data)


ANSWERS: Final[Mapping[str, Callable[..., Any]]] = {"decode": _decode, "size": _size}
"""What a decoder of images does, by name."""
