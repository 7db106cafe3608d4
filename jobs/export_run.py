"""A label run to be exported: its classes, and the rows of all its files of masks.

What counts is what the ledger names: a file that a process left in ``masks/`` after
another one had been first is never read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from deeplab.bundle import ClassInfo
from jobs.errors import InputError, RunError, UnfinishedError
from jobs.folder import is_finished, list_folders, read_shards, require_job
from jobs.ledger import Ledger
from jobs.outputs.label_rows import MaskFile
from jobs.outputs.mask_source import open_object
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import Output, Record
    from jobs.outputs.label_rows import LabelRow
    from jobs.shards import Item, Shard
    from jobs.storage import Store

_MASKS: Final = "masks/"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRun:
    """A label run that may be exported."""

    store: Store
    run: str
    classes: tuple[ClassInfo, ...]
    bundle: str
    """Digest of what made the masks."""

    items: int
    """That were planned."""

    done: int
    """Rows."""

    shards: dict[str, bytes] = field(repr=False)
    """Folders of the run and of its retries, and a 1 for each shard that was done when
    the run was opened: one that goes on is exported as it was then."""

    @property
    def notes(self) -> list[str]:
        """What people should know of it."""
        left = self.items - self.done
        text = (
            f"{left} of {self.items} images of {self.run} have no mask and are not in it: "
            "they are dead letters or not done yet; see atrous status"
        )
        return [text] if left else []

    def rows(
        self, columns: tuple[str, ...] | None = None, *, sources: bool = False
    ) -> Iterator[LabelRow]:
        """All rows, in order of shard; then those of each retry.

        Args:
            columns: To read; those that a file lacks are left out. None for all.
            sources: Say of each what was planned.

        Raises:
            RunError: A file is not what its record says, or the count of rows is not.
            ItemError: One cannot be read.
            StoreError: The store does not answer.
        """
        found = 0
        for folder in self.shards:
            shards = read_shards(self.store, folder) if sources else iter(())
            for record in self._records(folder):
                planned = _find_items(shards, record) if sources else {}
                for row in self._read(record, columns):
                    found += 1
                    yield replace(row, source=planned.get(row.uri)) if sources else row
        if found != self.done:
            raise RunError(
                f"{self.run} has {found} rows of masks, its ledger says {self.done}; see "
                "atrous verify"
            )

    def keys(self) -> Iterator[str]:
        """The key of each row, in the same order."""
        return (row.key for row in self.rows(("key",)))

    def has_column(self, name: str) -> bool:
        """Whether the first file has a column; True of a run without any file."""
        every = itertools.chain.from_iterable(map(self._records, self.shards))
        for record in every:
            for output in _find_masks(record):
                uri = join(self.run, output.name)
                with open_object(self.store, uri) as source, MaskFile(source) as file:
                    return name in file.columns
        return True

    def _records(self, folder: str) -> Iterator[Record]:
        done = self.shards[folder]
        for record in Ledger(self.store, folder).read():
            if record.shard < len(done) and done[record.shard]:
                yield record

    def _read(self, record: Record, columns: tuple[str, ...] | None) -> Iterator[LabelRow]:
        for output in _find_masks(record):
            yield from self._read_file(output, columns)

    def _read_file(
        self, output: Output, columns: tuple[str, ...] | None
    ) -> Iterator[LabelRow]:
        uri = join(self.run, output.name)
        try:
            with (
                open_object(self.store, uri, size=output.size) as source,
                MaskFile(source) as file,
            ):
                self._check_classes(file)
                yield from file.rows(columns)
        except ValueError as error:
            raise RunError(f"{uri} is damaged ({error}); see atrous verify") from error

    def _check_classes(self, file: MaskFile) -> None:
        names = [one.name for one in self.classes]
        if file.classes != names:
            raise ValueError(f"its classes are {file.classes}, those of the run {names}")


def open_run(store: Store, run: str, *, partial: bool = False) -> LabelRun:
    """Look at a label run that is to be exported.

    Args:
        store: Where it lies.
        run: The run folder.
        partial: Take what is done of one that is not finished.

    Raises:
        InputError: It is no label run.
        RunError: The run folder is damaged.
        UnfinishedError: It is not finished, and ``partial`` is not given.
    """
    held = require_job(store, run)
    try:
        job, items = held["identity"]["job"], int(held["plan"]["items"])
        bundle, classes = str(held["bundle"]["digest"]), _read_classes(held)
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"{run}/job.json is damaged; see atrous verify") from error
    if job != "label":
        raise InputError(
            f"{run} holds a {job} run, and this export takes masks of images; see atrous "
            "export polygons"
        )
    folders = list_folders(store, run)
    if not partial and not all(is_finished(store, one) for one in folders):
        raise UnfinishedError(
            f"{run} is not finished; give the command that started it again, then export "
            "it, or give --partial to export what is done"
        )
    shards, done = {}, 0
    for folder in folders:
        shards[folder], rows = _take_stock(Ledger(store, folder))
        done += rows
    return LabelRun(
        store=store,
        run=run,
        classes=classes,
        bundle=bundle,
        items=items,
        done=done,
        shards=shards,
    )


def describe_run(run: LabelRun) -> dict[str, Any]:
    """What a file says of where it is from."""
    return {"description": "Masks by Atrous", "bundle": run.bundle}


def _read_classes(held: dict[str, Any]) -> tuple[ClassInfo, ...]:
    return tuple(
        ClassInfo(name=one["name"], color=tuple(one["color"]))
        for one in held["bundle"]["classes"]
    )


def _find_masks(record: Record) -> list[Output]:
    return [one for one in record.outputs if one.name.startswith(_MASKS)]


def _find_items(shards: Iterator[Shard], record: Record) -> dict[str, tuple[Shard, Item]]:
    """What was planned of a record, by location."""
    # Both are in order of shard, so one pass over the plan serves them all.
    shard = next(one for one in shards if one.index == record.shard)
    return {item.uri: (shard, item) for item in shard.items}


def _take_stock(ledger: Ledger) -> tuple[bytes, int]:
    """A 1 for each shard that is done, and the rows of them all."""
    shards, rows = bytearray(), 0
    for record in ledger.read():
        # They come in order of shard.
        shards.extend(bytes(record.shard - len(shards)))
        shards.append(1)
        rows += record.items_done
    return bytes(shards), rows
