"""Masks as PNG: eight bits a pixel that are indices into a palette of the classes.

PNG, third edition (W3C), as plainly as it can be: one IDAT, no filter, no ancillary
chunk, so that the same mask has the same bytes wherever zlib is the same. What is
read is nothing but what is written here.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_COLORS: Final = 256
_IGNORE_COLOR: Final = (224, 224, 192)
"""Of 254, as Pascal VOC draws what is ignored; nodata is black."""

_LEVEL: Final = 6
_HEADER: Final = struct.Struct(">IIBBBBB")
_KIND: Final = (8, 3, 0, 0, 0)
"""Bits, colour type 3 (palette), compression, filters and interlacing."""


def encode_png(mask: NDArray[np.uint8], classes: Sequence[ClassInfo]) -> bytes:
    """A mask, uint8 (H, W), as a PNG file with the colours of the classes."""
    height, width = mask.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)  # first of each: no filter
    rows[:, 1:] = mask
    palette = np.zeros((_COLORS, 3), dtype=np.uint8)
    palette[: len(classes)] = [info.color for info in classes]
    palette[254] = _IGNORE_COLOR
    chunks = (
        (b"IHDR", _HEADER.pack(width, height, *_KIND)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), _LEVEL)),
        (b"IEND", b""),
    )
    return _SIGNATURE + b"".join(_pack(name, content) for name, content in chunks)


def decode_png(data: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """The mask, uint8 (height, width), in a file that ``encode_png`` made.

    Raises:
        ValueError: It is damaged, of another size, or no such file.
    """
    chunks = dict(_unpack(data))
    if chunks.get(b"IHDR") != _HEADER.pack(width, height, *_KIND):
        raise ValueError(f"no PNG of a mask of {height} x {width} px")
    size = height * (width + 1)
    unpacker = zlib.decompressobj()
    try:
        # One more than there should be, so that no file can become much larger.
        rows = unpacker.decompress(chunks.get(b"IDAT", b""), size + 1)
    except zlib.error as error:
        raise ValueError(f"a damaged PNG: {error}") from error
    if len(rows) != size or not unpacker.eof:
        raise ValueError(f"a PNG of {len(rows)} bytes and not {size}")
    found = np.frombuffer(rows, dtype=np.uint8).reshape(height, width + 1)
    if found[:, 0].any():
        raise ValueError("a PNG with filters, which masks have not")
    return np.ascontiguousarray(found[:, 1:])


def _pack(name: bytes, content: bytes) -> bytes:
    body = name + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def _unpack(data: bytes) -> list[tuple[bytes, bytes]]:
    """Names and contents of the chunks."""
    if not data.startswith(_SIGNATURE):
        raise ValueError("no PNG")
    found, at = [], len(_SIGNATURE)
    while at < len(data):
        size = int.from_bytes(data[at : at + 4])
        body, checksum = data[at + 4 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if zlib.crc32(body) != int.from_bytes(checksum) or len(checksum) < 4:  # noqa: PLR2004
            raise ValueError("a damaged PNG: a checksum is wrong")
        found.append((body[:4], body[4:]))
        at += 12 + size
    return found
