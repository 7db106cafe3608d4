"""The structure of tiled TIFF and BigTIFF files (TIFF 6.0; BigTIFF by Aware Systems).

Files are written as Cloud Optimized GeoTIFF wants them (OGC 21-026): all directories
first, then the tiles, those of the last directory first, row by row. Each tile stands
between its size and a copy of its last bytes, as GDAL's readers know it. Tiles are
bytes here: who writes them has compressed them, who reads them decodes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

NEW_SUBFILE_TYPE: Final = 254
WIDTH: Final = 256
HEIGHT: Final = 257
BITS: Final = 258
COMPRESSION: Final = 259
PHOTOMETRIC: Final = 262
SAMPLES: Final = 277
PLANAR: Final = 284
PALETTE: Final = 320
TILE_WIDTH: Final = 322
TILE_HEIGHT: Final = 323
EXTRA_SAMPLES: Final = 338
SAMPLE_FORMAT: Final = 339
GDAL_NODATA: Final = 42113
_OFFSETS: Final = 324
_SIZES: Final = 325

_SHORT: Final = 3
_LONG: Final = 4
_LONG8: Final = 16
_BYTES: Final = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
"""Of one value, by type."""

_LIMIT: Final = 2**32
"""Where an offset of four bytes ends."""

_AROUND: Final = 4
"""Bytes before a tile, which hold its size, and after it, which repeat its end."""

_LAYOUT: Final = (
    b"LAYOUT=IFDS_BEFORE_DATA\nBLOCK_ORDER=ROW_MAJOR\nBLOCK_LEADER=SIZE_AS_UINT4\n"
    b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED\nKNOWN_INCOMPATIBLE_EDITION=NO\n "
)
_GHOST: Final = b"GDAL_STRUCTURAL_METADATA_SIZE=%06d bytes\n" % len(_LAYOUT) + _LAYOUT
"""Tells GDAL that it may rely on all this."""

Tag = tuple[int, int, bytes]
"""Type, count and little-endian values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """One image of a file."""

    tags: Mapping[int, Tag]
    """By number, without the tables of tiles."""

    sizes: NDArray[np.uint64]
    """Bytes of each tile, row by row, and plane by plane."""

    offsets: NDArray[np.uint64]
    """Where each tile begins; all 0 where it is yet to be written."""


def short(value: int) -> Tag:
    """A tag of 16 bits."""
    return _SHORT, 1, struct.pack("<H", value)


def shorts(values: Sequence[int]) -> Tag:
    """A tag of several 16 bits."""
    return _SHORT, len(values), struct.pack(f"<{len(values)}H", *values)


def long(value: int) -> Tag:
    """A tag of 32 bits."""
    return _LONG, 1, struct.pack("<I", value)


def number(tag: Tag) -> int:
    """The first value of a tag of whole numbers."""
    return int.from_bytes(tag[2][: _BYTES[tag[0]]], "little")


def read_directories(data: bytes) -> list[Directory]:
    """The directories of a file that Atrous or GDAL has written.

    Raises:
        ValueError: It is none.
    """
    try:
        return list(_read_directories(data))
    except (struct.error, KeyError) as error:
        raise ValueError(f"no tiled TIFF: {error!r}") from error


def _read_directories(data: bytes) -> Iterable[Directory]:
    form = _BIG if data[:4] == _BIG.magic[:4] else _CLASSIC
    if data[:4] != form.magic[:4]:
        raise ValueError(f"no little-endian TIFF: it begins with {data[:4]!r}")
    (at,) = struct.unpack_from(form.offset, data, len(form.magic))
    while at:
        (count,) = struct.unpack_from(form.count, data, at)
        at += struct.calcsize(form.count)
        tags: dict[int, Tag] = {}
        for place in range(at, at + count * form.entry, form.entry):
            number, kind = struct.unpack_from("<HH", data, place)
            (values,) = struct.unpack_from(form.offset, data, place + 4)
            size, start = _BYTES[kind] * values, place + 4 + form.room
            if size > form.room:
                (start,) = struct.unpack_from(form.offset, data, start)
            if start + size > len(data):
                raise ValueError(f"tag {number} ends after the file")
            tags[number] = (kind, values, data[start : start + size])
        offsets, sizes = _numbers(tags.pop(_OFFSETS)), _numbers(tags.pop(_SIZES))
        if ((offsets + sizes) > len(data)).any():
            raise ValueError("a tile ends after the file")
        yield Directory(tags=tags, sizes=sizes, offsets=offsets)
        (at,) = struct.unpack_from(form.offset, data, at + count * form.entry)


def _numbers(tag: Tag) -> NDArray[np.uint64]:
    kind, _, data = tag
    return np.frombuffer(data, dtype=f"<u{_BYTES[kind]}").astype(np.uint64)


def write_tiff(
    file: BinaryIO, directories: Sequence[Directory], tiles: Iterable[bytes]
) -> None:
    """Write a file, as BigTIFF where it would not fit into four gigabytes.

    Args:
        file: Where to write.
        directories: The largest image first; their offsets do not count.
        tiles: Those of the last directory first, each directory's row by row.

    Raises:
        ValueError: A tile has another size than its directory says.
    """
    head, _ = lay_out(directories)
    file.write(head)
    sizes = [size for one in reversed(directories) for size in one.sizes.tolist()]
    for size, tile in zip(sizes, tiles, strict=True):
        if len(tile) != size or size < _AROUND:
            raise ValueError(f"a tile of {len(tile)} bytes, {size} were announced")
        file.write(struct.pack("<I", size))
        file.write(tile)
        file.write(tile[-_AROUND:])


def lay_out(directories: Sequence[Directory]) -> tuple[bytes, list[NDArray[np.uint64]]]:
    """What stands before the tiles, and where each tile begins."""
    for form in (_CLASSIC, _BIG):
        empty = [np.zeros_like(one.sizes) for one in directories]
        end = len(_head(directories, empty, form))
        offsets = []
        for one in reversed(directories):
            strides = one.sizes + np.uint64(2 * _AROUND)
            ends = np.cumsum(strides, dtype=np.uint64) + np.uint64(end)
            offsets.append(ends - strides + np.uint64(_AROUND))
            end = int(ends[-1])
        if end <= _LIMIT or form is _BIG:
            break
    offsets.reverse()
    return _head(directories, offsets, form), offsets


@dataclass(frozen=True, slots=True)
class _Form:
    """What classic TIFF and BigTIFF differ in."""

    magic: bytes
    count: str
    """Of a directory's entries, for ``struct``."""

    offset: str
    """Of an offset, or the number of a tag's values."""

    kind: int
    """Type of an offset in a table of tiles."""

    @property
    def room(self) -> int:
        """Bytes of values that an entry holds itself."""
        return struct.calcsize(self.offset)

    @property
    def entry(self) -> int:
        """Bytes of an entry."""
        return 4 + 2 * self.room


_CLASSIC: Final = _Form(b"II\x2a\x00", "<H", "<I", _LONG)
_BIG: Final = _Form(b"II\x2b\x00\x08\x00\x00\x00", "<Q", "<Q", _LONG8)


def _head(
    directories: Sequence[Directory], offsets: Sequence[NDArray[np.uint64]], form: _Form
) -> bytes:
    out = bytearray(form.magic)
    start = len(out)  # of the pointer to the next directory
    out += bytes(form.room) + _GHOST
    for directory, places in zip(directories, offsets, strict=True):
        tags = dict(directory.tags)
        tags[_OFFSETS] = (form.kind, len(places), places.astype(form.offset).tobytes())
        sizes = directory.sizes.astype("<u4")
        tags[_SIZES] = (_LONG, len(sizes), sizes.tobytes())
        _align(out)
        struct.pack_into(form.offset, out, start, len(out))
        start = _append(out, tags, form)
    return bytes(out)


def _append(out: bytearray, tags: Mapping[int, Tag], form: _Form) -> int:
    """Append a directory; where its pointer to the next one stands."""
    out += struct.pack(form.count, len(tags))
    start = len(out) + len(tags) * form.entry
    extra = bytearray()
    for number, (kind, count, data) in sorted(tags.items()):
        if len(data) <= form.room:
            value = data.ljust(form.room, b"\0")
        else:
            value = struct.pack(form.offset, start + form.room + len(extra))
            extra += data
            _align(extra)
        out += struct.pack("<HH", number, kind) + struct.pack(form.offset, count) + value
    out += bytes(form.room) + extra
    return start


def _align(out: bytearray) -> None:
    """The next value begins at a whole word."""
    out += bytes(-len(out) % 8)
