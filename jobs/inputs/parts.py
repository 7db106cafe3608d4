"""Read items that are parts of an object: members of a tar, rows of a Parquet file.

Neighbours of a shard are fetched together: members by ranges that hold several, and
rows as one stream over their row group. What is fetched is let go once it was taken.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jobs.errors import ItemError
from jobs.inputs.decoding import image_size
from jobs.inputs.tables import read_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Item, Part, Shard
    from jobs.storage import Store

RANGE: Final = 8 * 2**20
"""Bytes that are fetched at once at most, but for a larger member."""

GAP: Final = 2**16
"""Bytes between two members that are sooner read than asked around."""

_READERS: Final = 4
"""Shards whose readers are kept: two are under way at once."""

_LONGEST_PATH: Final = 1024
_HEADER_BYTES: Final = 2**18
"""More than the largest EXIF block that comes before a JPEG's size."""


def read_part(store: Store, shard: Shard, item: Item) -> tuple[bytes, dict[str, str]]:
    """The bytes of an item, and the texts beside it by their suffix.

    Args:
        store: Where it lies.
        shard: The shard that it is read for, whose other items come with it.
        item: One with a part.

    Raises:
        ItemError: It cannot be done.
        StoreError: It cannot be had now.
    """
    return _reader(store, shard).read(item)


def read_size(store: Store, shard: Shard, item: Item) -> tuple[int, int] | None:
    """Height and width that an image's header says; None where it says nothing."""
    part = item.part
    try:
        if part is None:
            return image_size(store.read_head(item.uri, _HEADER_BYTES))
        if part.refusal is None and part.group is None:
            size = min(item.size, _HEADER_BYTES)
            return image_size(store.read_part(part.of, part.at, size, etag=item.etag))
        return image_size(read_part(store, shard, item)[0][:_HEADER_BYTES])
    except ItemError:
        return None


class PartReader:
    """Reads the parts of a shard. Safe to use from many threads."""

    def __init__(self, store: Store, shard: Shard) -> None:
        """Read nothing yet."""
        self._members: dict[str, _Members] = {}
        self._rows: dict[tuple[str, int], _Rows] = {}
        for item in shard.items:
            if item.part is None or item.part.refusal is not None:
                continue
            if item.part.group is not None:
                place = item.part.of, item.part.group
                self._rows.setdefault(place, _Rows(store, item)).wanted.add(item.part.at)
            else:
                members = self._members.setdefault(item.part.of, _Members(store, item))
                members.pieces += pieces_of(item)

    def read(self, item: Item) -> tuple[bytes, dict[str, str]]:
        """Bytes and texts of an item; see ``read_part``."""
        part = item.part
        if part is None:
            raise ValueError(f"{item.uri} is no part of an object")
        if part.refusal is not None:
            raise ItemError(part.refusal.code, part.refusal.message)
        if part.group is not None:
            return self._rows[part.of, part.group].take(part)
        data, *texts = self._members[part.of].take(pieces_of(item))
        suffixes = (one.suffix for one in part.sidecars)
        return data, {
            suffix: text.decode("utf-8", "replace")
            for suffix, text in zip(suffixes, texts, strict=True)
        }


Piece = tuple[int, int]
"""First byte and number of bytes."""


def pieces_of(item: Item) -> list[Piece]:
    """What is read of a tar for one of its members: the member, then its sidecars."""
    part = item.part
    if part is None:
        return []
    return [(part.at, item.size), *((one.at, one.size) for one in part.sidecars)]


@dataclass(slots=True)
class _Range:
    """Bytes that are fetched together."""

    start: int
    end: int
    pieces: int = 0
    left: int = 0
    """Pieces that are still to be taken from it."""

    data: bytes | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Members:
    """The members of one tar."""

    def __init__(self, store: Store, item: Item) -> None:
        self.pieces: list[Piece] = []
        self._store, self._etag = store, item.etag
        self._uri = "" if item.part is None else item.part.of
        self._ranges: dict[Piece, _Range] = {}
        self._lock = threading.Lock()

    def take(self, pieces: list[Piece]) -> list[bytes]:
        """The bytes of some pieces."""
        with self._lock:
            if not self._ranges:
                self._ranges = join_pieces(self.pieces)
        return [self._take(piece) for piece in pieces]

    def _take(self, piece: Piece) -> bytes:
        (start, size), one = piece, self._ranges[piece]
        if not size:
            return b""
        with one.lock:
            if one.data is None:
                one.data = self._store.read_part(
                    self._uri, one.start, one.end - one.start, etag=self._etag
                )
            data = one.data[start - one.start :][:size]
            one.left -= 1
            if not one.left:
                # Another attempt at the shard reads it anew, and once.
                one.data, one.left = None, one.pieces
        if len(data) < size:
            raise ItemError("truncated", f"{self._uri} ends within the member")
        return data


def join_pieces(pieces: list[Piece]) -> dict[Piece, _Range]:
    """Which range each piece is read with; ranges hold neighbours, up to a size."""
    found: dict[Piece, _Range] = {}
    last: _Range | None = None
    for start, size in sorted(pieces):
        end = start + size
        if last is None or start > last.end + GAP or end > last.start + RANGE:
            last = _Range(start=start, end=end)
        last.end = max(last.end, end)
        # A piece that is asked for twice is read with one range; of none nothing is.
        one = found.setdefault((start, size), last)
        one.left = one.pieces = one.pieces + (size > 0)
    return found


class _Rows:
    """The rows of one row group, which are read in order."""

    def __init__(self, store: Store, item: Item) -> None:
        self.wanted: set[int] = set()
        self._store, self._etag = store, item.etag
        self._part = item.part
        self._lock = threading.Lock()
        self._ready: dict[int, tuple[bytes | None, str | None]] = {}
        self._stream: Iterator[tuple[bytes | None, str | None]] | None = None
        self._at = 0
        self._broken: ItemError | None = None
        """Why no row follows."""

    def take(self, part: Part) -> tuple[bytes, dict[str, str]]:
        """Bytes of a row, and the name that its file had."""
        with self._lock:
            data, path = self._find(part.at)
        if data is None:
            named = f", only the name {path[:200]!r}" if path else ""
            raise ItemError("undecodable", f"the row holds no bytes{named}")
        return data, {"path": path[:_LONGEST_PATH]} if path else {}

    def _find(self, row: int) -> tuple[bytes | None, str | None]:
        if row not in self._ready and row < self._at:
            self._stream = self._broken = None  # it was taken before, so begin anew
        if self._stream is None and self._part is not None:
            self._stream, self._at = read_rows(self._store, self._part, self._etag), 0
        while row not in self._ready:
            value = self._next()
            if self._at in self.wanted:
                self._ready[self._at] = value
            self._at += 1
        return self._ready.pop(row)

    def _next(self) -> tuple[bytes | None, str | None]:
        if self._broken is not None:
            raise self._broken
        # Whatever fails, another attempt opens the row group anew.
        stream, self._stream = self._stream, None
        try:
            value = next(stream or iter(()), None)
        except ItemError as error:
            # Read again it would break at the same place.
            self._stream, self._broken = stream, error
            raise
        self._stream = stream
        if value is None:
            raise ItemError("undecodable", "the row group ends before the row")
        return value


_kept: OrderedDict[int, tuple[Shard, PartReader]] = OrderedDict()
_kept_lock = threading.Lock()


def _reader(store: Store, shard: Shard) -> PartReader:
    """The reader of a shard under way; the shard is kept, so that its number is its own."""
    with _kept_lock:
        held = _kept.get(id(shard))
        if held is None:
            held = shard, PartReader(store, shard)
            _kept[id(shard)] = held
        _kept.move_to_end(id(shard))
        while len(_kept) > _READERS:
            _kept.popitem(last=False)
        return held[1]
