"""The dead letters of a run and its retries: those that still hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pyarrow as pa

from jobs.folder import list_folders, read_shards
from jobs.ledger import Ledger
from jobs.outputs.tables import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from jobs.ledger import DeadLetter, Record
    from jobs.shards import Shard
    from jobs.storage import Store

_SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("row", pa.int32()),
        pa.field("col", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("code", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


class Settled:
    """Which inputs a retry has seen to; of the size of the retries alone."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._inputs: set[tuple[str, int | None, int | None]] = set()
        self._uris: set[str] = set()
        self._wholes: set[str] = set()

    def add(self, shard: Shard) -> None:
        """A shard of a retry is in the ledger."""
        for item, block in shard.parts:
            core = None if block is None else block.core
            row, col = (None, None) if core is None else (core.row, core.col)
            self._inputs.add((item.uri, row, col))
            self._uris.add(item.uri)
            if shard.is_whole:  # it may have had more blocks before it was changed
                self._wholes.add(item.uri)

    def holds(self, letter: DeadLetter) -> bool:
        """Whether a letter of an earlier folder says nothing any more."""
        if letter.row is None:  # a raster that was refused may have blocks by now
            return letter.uri in self._uris
        place = (letter.uri, letter.row, letter.col)
        return place in self._inputs or letter.uri in self._wholes


def open_letters(store: Store, run: str) -> Iterator[DeadLetter]:
    """The dead letters that still hold, of a run and then of each retry, in order."""
    folders = list_folders(store, run)
    for number, folder in enumerate(folders):
        settled = settled_by(store, folders[number + 1 :])
        for record in Ledger(store, folder).read():
            yield from (one for one in record.dead_letters if not settled.holds(one))


def redone(store: Store, run: str) -> Iterator[tuple[Record, list[DeadLetter]]]:
    """Records with dead letters that later passes have seen to, and these letters."""
    folders = list_folders(store, run)
    for number, folder in enumerate(folders[:-1]):
        settled = settled_by(store, folders[number + 1 :])
        for record in Ledger(store, folder).read():
            letters = [one for one in record.dead_letters if settled.holds(one)]
            if letters:
                yield record, letters


def settled_by(store: Store, folders: list[str]) -> Settled:
    """What some retries have seen to."""
    settled = Settled()
    for folder in folders:
        shards = read_shards(store, folder)
        for record in Ledger(store, folder).read():
            # Both are in order of shard, so one pass over the plan serves them all.
            settled.add(next(one for one in shards if one.index == record.shard))
    return settled


def write_letters(letters: Iterable[DeadLetter], path: Path) -> None:
    """Write dead letters to a local Parquet file as they come."""
    write_rows(path, _SCHEMA, letters)
