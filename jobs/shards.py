"""Group items into shards: the unit of work, of retry and of resume.

Planning is pure: it reads no file and starts no process, so ``atrous plan``
shows exactly what a run will do. The plan is written once and read again on
every resume, so a later change of a limit never moves finished work.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deeplab.tiles import Window


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One input object, as the store listed it."""

    uri: str
    """Absolute location, e.g. ``s3://bucket/scenes/0001.tif``."""

    key: str
    """The location below the source, e.g. ``0001.tif``."""

    size: int
    """Bytes."""

    etag: str
    """What the object was when the run was planned."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an item cannot be done, found out while planning."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """What one call of a replica reads, segments and writes."""

    index: int
    """Position in the plan, from 0."""

    items: tuple[Item, ...]
    """At least one, in URI order; exactly one where there is a block."""

    block: Block | None = None
    """The part of the raster to map; None for images."""

    refusal: Refusal | None = None
    """Set where the item is known to be a dead letter already."""

    @property
    def size(self) -> int:
        """Bytes of the items."""
        return sum(item.size for item in self.items)

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

    An item larger than ``max_bytes`` gets a shard of its own.

    Args:
        items: Input objects in URI order.
        max_items: Most items in a shard.
        max_bytes: Most bytes in a shard of two items or more.

    Yields:
        Shards whose items, concatenated, are the input.

    Raises:
        InputError: A limit is below 1.
    """
    if max_items < 1 or max_bytes < 1:
        raise InputError(f"shard limits must be at least 1, got {max_items=}, {max_bytes=}")
    index = 0
    group: list[Item] = []
    room = max_bytes
    for item in items:
        if group and (len(group) == max_items or item.size > room):
            yield Shard(index=index, items=tuple(group))
            index, group, room = index + 1, [], max_bytes
        group.append(item)
        room -= item.size
    if group:
        yield Shard(index=index, items=tuple(group))
