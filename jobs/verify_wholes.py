"""Whole rasters of a shard, counted again: each by itself, then all of them together.

A record says what became of a shard's pixels, and not which raster has them. So the
COGs are held against the sum, once the last of them was read, in whatever thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from jobs.outputs.recount import recount_raster
from jobs.verify_outputs import inspect_layout, inspect_made_by, inspect_values
from jobs.wholes import done_items, names_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobs.ledger import Record
    from jobs.shards import Block, Shard
    from jobs.verify_folder import Pass
    from jobs.verify_outputs import Told


class Wholes:
    """The rasters of one shard that are done."""

    def __init__(self, shard: Shard, record: Record, one: Pass) -> None:
        """Nothing is counted yet."""
        self._shard, self._record, self._pass = shard, record, one
        self._masks: dict[str, Block] = {}
        self._sure: dict[str, Block] = {}
        self._probable: dict[str, Block] = {}
        for item in done_items(shard, record):
            names, block = names_of(item), shard.block_of(item)
            if block is not None:
                self._masks[names.mask] = self._sure[names.confidence] = block
                self._probable[names.probabilities] = block
        self._sums = {
            "classes": _Sum(len(self._masks)),
            "confidence": _Sum(len(self._sure)),
            "probabilities": _Sum(len(self._probable)),
        }

    def inspect(self, name: str, path: Path) -> Iterator[Told]:
        """Look into one of the files that they were made into.

        Raises:
            ValueError: It is damaged.
        """
        if name in self._masks:
            yield from self._inspect_mask(self._masks[name], path)
        elif name in self._sure:
            yield from self._inspect_confidence(self._sure[name], path)
        elif name in self._probable:
            yield from self._inspect_probabilities(self._probable[name], path)

    def _inspect_mask(self, block: Block, path: Path) -> Iterator[Told]:
        one, found = self._pass, recount_raster(path, [block.core])
        yield from inspect_layout(found, block.height, block.width)
        yield from inspect_made_by(found, one.fingerprint, one.bundle)
        for counts in found.counts:
            yield from inspect_values(counts, one, block.core)
            yield from self._add("classes", int(counts[: one.classes].sum()))

    def _inspect_confidence(self, block: Block, path: Path) -> Iterator[Told]:
        """Each pixel that has a class has a probability, and no other."""
        found = recount_raster(path, [block.core])
        yield from inspect_layout(found, block.height, block.width)
        for counts in found.counts:
            yield from self._add("confidence", int(counts[1:].sum()))

    def _inspect_probabilities(self, block: Block, path: Path) -> Iterator[Told]:
        """Each pixel that has a class has probabilities, and no other."""
        found = recount_raster(path, [block.core], data=True)
        yield from inspect_layout(found, block.height, block.width, bands=found.bands)
        for counts in found.counts:
            yield from self._add("probabilities", int(counts[1:].sum()))

    def _add(self, kind: str, count: int) -> Iterator[Told]:
        total = self._sums[kind].add(count)
        if total is not None and total != self._record.pixels_done:
            of = f"with {kind} in the rasters of shard {self._shard.index}"
            yield "wrong_count", f"{self._record.pixels_done} pixels {of}", total


class _Sum:
    """Counts from several threads."""

    def __init__(self, parts: int) -> None:
        self._lock, self._left, self._total = threading.Lock(), parts, 0

    def add(self, count: int) -> int | None:
        """Take a part; the sum, if it was the last one."""
        with self._lock:
            self._left -= 1
            self._total += count
            return None if self._left else self._total
