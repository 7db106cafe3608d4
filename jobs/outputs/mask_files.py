"""A shard's masks as one file, or as several where they are large.

Each file is whole, is created once, and is signed with the record of the items that it
covers: those that follow the items of the file before it. So which items a file begins
with follows from the files that stand, whoever made them, and whoever comes too late
with a file takes up what stands and goes on behind it. Two attempts that read
differently, or end their files elsewhere, thus never put an item in two files or in none.
"""

from __future__ import annotations

import itertools
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import RunError
from jobs.ledger import DeadLetter, Record, parse_record, to_json
from jobs.outputs.files import scratch_file, store_file
from jobs.outputs.mask_rows import count_pixels
from jobs.outputs.masks import MaskWriter, mask_size, read_record, read_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from jobs.shards import Shard
    from jobs.storage import Store

    Outcome = dict[str, Any] | DeadLetter
    """The row of an image, or why there is none."""

_FOLDER: Final = "masks"


def mask_name(key: str, number: int) -> str:
    """Location of one of a shard's files below the run folder, from 0."""
    return f"{_FOLDER}/part-{key}{f'-{number:03d}' if number else ''}.parquet"


def first_name(name: str) -> str:
    """The name of a shard's first file, of that of any of its files; else the same."""
    key, dash, number = name.removesuffix(".parquet").rpartition("-")
    is_later = dash and number.isdecimal() and name == mask_name(_key_of(key), int(number))
    return f"{key}.parquet" if is_later else name


def _key_of(start: str) -> str:
    return start.removeprefix(f"{_FOLDER}/part-")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskFiles:
    """Where the masks of a run go."""

    store: Store
    run: str
    fingerprint: str
    limit: int
    """Most bytes of masks in a file of two rows or more."""

    open: Callable[[Path], MaskWriter]

    def write(self, shard: Shard, outcomes: Iterable[Outcome]) -> Record:
        """Write a shard's masks, unless they stand; the record of what stands.

        There is one file at least, also without a row: so of two attempts that read
        differently one is first, in everything.

        Args:
            shard: What was to do.
            outcomes: One for each of its items, in order.

        Raises:
            RunError: What stands is no file of this shard.
            StoreError: The store does not answer.
        """
        rest, left = iter(outcomes), len(shard.items)
        parts: list[Record] = []
        with scratch_file(self.store, self.run) as path:
            while left:
                name = mask_name(shard.output_key(self.fingerprint), len(parts))
                part, rest = self._create(path, name, shard, rest)
                left -= part.items
                if left < 0 or not part.items or part.shard != shard.index:
                    raise RunError(
                        f"{name} is not of shard {shard.index}; see atrous verify"
                    )
                parts.append(part)
        return join_records(parts)

    def _create(
        self, path: Path, name: str, shard: Shard, outcomes: Iterator[Outcome]
    ) -> tuple[Record, Iterator[Outcome]]:
        """Create a file, or take up the one that stands; its record, and what is left."""
        copy = path.with_name(name.rpartition("/")[2])
        mine, rest = self._fill(path, shard, outcomes)
        _link(path, copy)
        stored = store_file(self.store, self.run, name, path)
        if stored.other is None:
            copy.unlink()
            return replace(mine.record, outputs=(stored.output,)), rest
        theirs = parse_record(name, read_record(stored.other))
        again = itertools.chain(mine.outcomes(copy), rest)
        rest = itertools.islice(again, theirs.items, None)
        return replace(theirs, outputs=(stored.output,)), rest

    def _fill(
        self, path: Path, shard: Shard, outcomes: Iterator[Outcome]
    ) -> tuple[_Filled, Iterator[Outcome]]:
        """Write a local file, until it is full; what it holds, and what is left."""
        letters: list[DeadLetter | None] = []
        done = nodata = 0
        with self.open(path) as writer:
            for outcome in outcomes:
                if isinstance(outcome, DeadLetter):
                    letters.append(outcome)
                    continue
                if writer.size and writer.size + mask_size(outcome) > self.limit:
                    outcomes = itertools.chain([outcome], outcomes)
                    break
                writer.add_row(outcome)
                letters.append(None)
                pixels = count_pixels(outcome)
                done, nodata = done + pixels[0], nodata + pixels[1]
            record = Record(
                shard=shard.index,
                fingerprint=self.fingerprint,
                items=len(letters),
                items_done=letters.count(None),
                dead_letters=tuple(one for one in letters if one is not None),
                pixels_done=done,
                pixels_nodata=nodata,
            )
            writer.sign(to_json(record).decode())
        return _Filled(record=record, letters=letters), outcomes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filled:
    """A local file."""

    record: Record
    letters: list[DeadLetter | None]
    """Of the items that it covers, in order; None where there is a row."""

    def outcomes(self, path: Path) -> Iterator[Outcome]:
        """All that was put into it, out of a copy of it."""
        rows = read_rows(path)
        for letter in self.letters:
            yield next(rows) if letter is None else letter


def join_records(parts: list[Record]) -> Record:
    """The record of a shard, of those of its files."""
    return replace(
        parts[0],
        items=sum(part.items for part in parts),
        items_done=sum(part.items_done for part in parts),
        dead_letters=tuple(letter for part in parts for letter in part.dead_letters),
        pixels_done=sum(part.pixels_done for part in parts),
        pixels_nodata=sum(part.pixels_nodata for part in parts),
        outputs=tuple(output for part in parts for output in part.outputs),
    )


def _link(path: Path, copy: Path) -> None:
    """Keep a file under a second name, as the first one is about to go."""
    try:
        os.link(path, copy)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, copy)
