"""What the protocol writes, in small; inputs are numbers and units are bits."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

GROUP: Final = 2
"""Records of a complete group are merged into one object."""

BLOCKS: Final = 2
"""Blocks of a raster."""

GENERATIONS: Final = 3
IN_FLIGHT: Final = 2

DEAD: Final = "dead"
NODATA: Final = "nodata"

FINISHED: Final = "finished"
REFUSED: Final = "refused"
NOTHING: Final = "nothing to do"

Key = tuple[Any, ...]


class Data(NamedTuple):
    """What an object of a shard holds; units are bits."""

    options: int
    generation: int
    done: int
    dead: int
    stale: int
    """Units read in another version than planned."""

    device: int
    """What computed it: another kind of device may give other bytes."""

    whole: bool = True


class Record(NamedTuple):
    fingerprint: int
    shard: int
    done: int
    dead: int
    key: Key | None
    data: Data | None
    """The object that stands under ``key``."""


class Raster(NamedTuple):
    generation: int
    blocks: tuple[Any, ...]
    """For each block the piece it came from, or ``NODATA`` or ``DEAD``."""


class Stuck(Exception):  # noqa: N818 - a process says so, and ends
    """A process cannot go on."""


class Job(NamedTuple):
    """What a driver, and the attempts that it starts, know of a generation."""

    generation: int
    options: int
    fingerprint: int
    shards: tuple[tuple[tuple[int, int], ...], ...]
    """Of each shard: its units, and the version of each unit's input."""
