"""Group items into shards: the unit of work, of retry and of resume.

Planning is pure: it reads no file and starts no process, so ``atrous plan``
shows exactly what a run will do. The plan is written once and read again on
every resume, so a later change of a limit never moves finished work.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from deeplab.tiles import Window

Value = TypeVar("Value")

_GROUP_FACTOR: Final = 64
"""The rows of a row group may be so many times more than a shard's items."""

MOSAIC: Final = "mosaic.tif"
"""Key and location of the item that stands for a mosaic; no scene's, which are absolute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an item cannot be done, found out while planning."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """Text that lies beside an image in a tar."""

    suffix: str
    """What follows the first dot of its name, e.g. ``json``."""

    at: int
    """Its first byte, in the tar."""

    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Where in an object an item lies that is no object by itself."""

    of: str
    """Location of the tar or the Parquet file."""

    at: int
    """First byte in the tar; or the row, counted from the first of its row group."""

    group: int | None = None
    """Row group of the Parquet file; None in a tar."""

    column: str = ""
    """Column of the Parquet file that holds the image."""

    sidecars: tuple[Sidecar, ...] = ()
    refusal: Refusal | None = None
    """Set where the item is known to be a dead letter already."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One input: an object as the store listed it, or a part of one."""

    uri: str
    """Absolute location, e.g. ``s3://bucket/scenes/0001.tif``; of a part, a name made
    of that of its object, which no other item of the run has."""

    key: str
    """The location below the source, e.g. ``0001.tif``."""

    size: int
    """Bytes."""

    etag: str
    """What the object was when the run was planned."""

    part: Part | None = None
    """None for an object as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A part of a raster: the output pixels of one shard of a map."""

    number: int
    """Position among the raster's blocks, row by row, from 0."""

    core: Window
    """The pixels, in raster coordinates."""

    height: int
    """Rows of the whole raster."""

    width: int
    """Columns of the whole raster."""

    grid: str = ""
    """Where the raster lies, from ``RasterInfo``; of its first block alone."""

    decoded: int = 0
    """Pixels that the file must decode for it and its halo; 0 where nobody knows."""

    @property
    def is_whole(self) -> bool:
        """Whether it is all of its raster."""
        return (self.core.height, self.core.width) == (self.height, self.width)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one call of a replica reads, segments and writes."""

    index: int
    """Position in the plan, from 0."""

    items: tuple[Item, ...]
    """At least one, in URI order; exactly one where there is a block, but for mosaics,
    which name the scenes that touch it after what stands for the mosaic."""

    block: Block | None = None
    """The part of the raster to map; None for images, and where there are ``blocks``."""

    blocks: tuple[Block, ...] = ()
    """One of each item, where two or more are rasters of one block each."""

    refusal: Refusal | None = None
    """Set where the item is known to be a dead letter already."""

    @property
    def size(self) -> int:
        """Bytes of the items."""
        return sum(item.size for item in self.items)

    @property
    def pixels(self) -> int:
        """Pixels of its blocks; 0 for images."""
        blocks = self.blocks or (() if self.block is None else (self.block,))
        return sum(block.core.size for block in blocks)

    @property
    def decoded(self) -> tuple[int, int]:
        """Pixels that files decode for its blocks, and pixels of these; where known."""
        known = [block for _, block in self.parts if block and block.decoded]
        return sum(one.decoded for one in known), sum(one.core.size for one in known)

    @property
    def is_whole(self) -> bool:
        """Whether it is rasters of one block each, which are written without pieces."""
        is_one = self.block is not None and self.block.is_whole
        return bool(self.blocks) or (is_one and not self.is_mosaic)

    @property
    def is_mosaic(self) -> bool:
        """Whether it is a block of a mosaic: its first item stands for that."""
        return self.items[0].uri == MOSAIC

    @property
    def scenes(self) -> tuple[Item, ...]:
        """The items that are objects."""
        return self.items[1:] if self.is_mosaic else self.items

    @property
    def parts(self) -> tuple[tuple[Item, Block | None], ...]:
        """Each item with its block; None for an image, or what is refused."""
        blocks = self.blocks or (self.block,) * len(self.items)
        return tuple(zip(self.items, blocks, strict=True))

    @property
    def rasters(self) -> tuple[tuple[Item, Block | None], ...]:
        """Each item that is mapped, with its block: a mosaic, and not its scenes."""
        return self.parts[:1] if self.is_mosaic else self.parts

    def refusal_of(self, item: Item) -> Refusal | None:
        """Why one of the items cannot be done, where that is known already."""
        return self.refusal or (item.part.refusal if item.part is not None else None)

    def block_of(self, item: Item) -> Block | None:
        """The block of one of the items."""
        return self.blocks[self.items.index(item)] if self.blocks else self.block

    def split(self) -> Iterator[Shard]:
        """The same, each item in a shard of its own."""
        for item, block in self.parts:
            yield replace(self, items=(item,), block=block, blocks=())

    def select(self, uris: Collection[str]) -> Shard:
        """The same, of some of its items alone."""
        if self.blocks:
            return _join([one for one in self.split() if one.items[0].uri in uris])
        return replace(self, items=tuple(one for one in self.items if one.uri in uris))

    def output_key(self, fingerprint: str) -> str:
        """Name of the shard's output: 16 hex digits over the run and its items."""
        lines = [fingerprint, *(item.uri for item in self.items)]
        if self.block is not None:
            lines.append(str(self.block.core))
        # As JSON, for a URI may hold a line break and look like two.
        return hashlib.sha256(json.dumps(lines).encode()).hexdigest()[:16]


def plan_shards(
    items: Iterable[Item], *, max_items: int, max_bytes: int
) -> Iterator[Shard]:
    """Pack items into shards in the order given, closing one at either limit.

    An item larger than ``max_bytes`` gets a shard of its own. The rows of a row group
    stay together, so that it is read once, unless they are more than ``max_bytes`` or
    many times ``max_items``.

    Args:
        items: Inputs in URI order.
        max_items: Most items in a shard, but for the rows of one row group.
        max_bytes: Most bytes in a shard of two items or more.

    Yields:
        Shards whose items, concatenated, are the input.

    Raises:
        InputError: A limit is below 1.
    """
    _check_limits(max_items, max_bytes)
    rows = _join_rows(items, (max_items * _GROUP_FACTOR, max_bytes))
    for index, group in enumerate(_pack(rows, _weigh, (max_items, max_bytes))):
        yield Shard(index=index, items=tuple(itertools.chain.from_iterable(group)))


def _weigh(items: Sequence[Item]) -> tuple[int, ...]:
    return len(items), sum(map(_bytes_of, items))


def _bytes_of(item: Item) -> int:
    """What is read of an item: it, and the texts beside it."""
    sidecars = () if item.part is None else item.part.sidecars
    return item.size + sum(one.size for one in sidecars)


def _join_rows(items: Iterable[Item], most: tuple[int, ...]) -> Iterator[Sequence[Item]]:
    """Rows of one row group together, as far as the limits allow; all else alone."""
    group: list[Item] = []
    count = size = 0
    for item in items:
        count, size = count + 1, size + item.size
        is_next = bool(group) and _row_group(item) == _row_group(group[0])
        if group and not (is_next and count <= most[0] and size <= most[1]):
            yield group
            group = []
        if not group:
            count, size = 1, item.size
        if _row_group(item) is None:
            yield (item,)
        else:
            group.append(item)
    if group:
        yield group


def _row_group(item: Item) -> tuple[str, int] | None:
    part = item.part
    return None if part is None or part.group is None else (part.of, part.group)


def group_wholes(
    shards: Iterable[Shard], *, max_items: int, max_bytes: int, max_pixels: int
) -> Iterator[Shard]:
    """Pack rasters of one block that follow each other; all else stays as it is.

    A few bytes may hold many pixels, so both are limited.

    Args:
        shards: Of one item each, in order, whatever their index.
        max_items: Most rasters in a shard.
        max_bytes: Most bytes in a shard of two rasters or more.
        max_pixels: Most pixels in such a shard.

    Yields:
        Shards whose items and blocks, concatenated, are those of the input.

    Raises:
        InputError: A limit is below 1.
    """
    _check_limits(max_items, max_bytes)

    def weigh(shard: Shard) -> tuple[int, ...]:
        # Nothing fits beside a shard that takes all the room there is.
        count = 1 if shard.is_whole and shard.refusal is None else max_items
        return count, shard.size, shard.pixels

    groups = _pack(shards, weigh, (max_items, max_bytes, max_pixels))
    for index, group in enumerate(groups):
        yield replace(_join(group), index=index)


def _check_limits(max_items: int, max_bytes: int) -> None:
    if max_items < 1 or max_bytes < 1:
        raise InputError(f"shard limits must be at least 1, got {max_items=}, {max_bytes=}")


def _pack(
    values: Iterable[Value],
    weigh: Callable[[Value], tuple[int, ...]],
    most: tuple[int, ...],
) -> Iterator[list[Value]]:
    """Groups of values that follow each other, as large as each of the limits allows."""
    group: list[Value] = []
    held: tuple[int, ...] = ()
    for value in values:
        weight = weigh(value)
        total = tuple(map(sum, zip(held, weight, strict=True))) if group else weight
        if group and any(one > limit for one, limit in zip(total, most, strict=True)):
            yield group
            group, total = [], weight
        group.append(value)
        held = total
    if group:
        yield group


def _join(group: Sequence[Shard]) -> Shard:
    """Shards of one item each as one shard."""
    if len(group) == 1:
        return group[0]
    items = tuple(item for one in group for item in one.items)
    blocks = tuple(one.block for one in group if one.block is not None)
    return replace(group[0], items=items, block=None, blocks=blocks)
