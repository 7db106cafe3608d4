"""What a shard of a map adds up to, and what its whole rasters are called.

A raster of one block is written as it is mapped, without pieces, and shares its shard
with its neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jobs.assembly import RasterNames, output_name
from jobs.ledger import DeadLetter, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobs.ledger import Output
    from jobs.shards import Item, Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What a raster, or a block of it, was made into."""

    outputs: tuple[Output, ...] = ()
    done: int = 0
    """Pixels that have a class."""


def names_of(item: Item) -> RasterNames:
    """Locations below the run folder of all that an item may be made into."""
    return RasterNames(output_name(item.key))


def done_items(shard: Shard, record: Record) -> list[Item]:
    """Items of a shard that are no dead letters."""
    dead = {letter.uri for letter in record.dead_letters}
    return [item for item in shard.items if item.uri not in dead]


def add_up(shard: Shard, fingerprint: str, results: Iterable[Made | DeadLetter]) -> Record:
    """The record of a shard.

    Args:
        shard: What was to do.
        fingerprint: Of the run.
        results: What became of each item, in order.
    """
    letters: list[DeadLetter] = []
    outputs: list[Output] = []
    done = dead = 0
    for (_, block), result in zip(shard.parts, results, strict=True):
        if isinstance(result, DeadLetter):
            letters.append(result)
            dead += 0 if block is None else block.core.size
        else:
            outputs += result.outputs
            done += result.done
    return Record(
        shard=shard.index,
        fingerprint=fingerprint,
        items=len(shard.items),
        items_done=len(shard.items) - len(letters),
        dead_letters=tuple(letters),
        pixels_done=done,
        pixels_nodata=shard.pixels - done - dead,
        pixels_dead=dead,
        outputs=tuple(outputs),
    )
