"""A label run to be exported: its classes, and the rows of all its files of masks.

What counts is what the ledger names: a file that a process left in ``masks/`` after
another one had been first is never read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from deeplab.bundle import ClassInfo
from jobs.errors import InputError, RunError, UnfinishedError
from jobs.folder import is_finished, list_folders, require_job
from jobs.ledger import Ledger
from jobs.outputs.mask_rows import MaskFile
from jobs.outputs.mask_source import open_object
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import Output, Record
    from jobs.outputs.mask_rows import LabelRow
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

    folders: tuple[str, ...] = field(repr=False)
    """The run's and those of its retries, each with a ledger."""

    @property
    def notes(self) -> list[str]:
        """What people should know of it."""
        left = self.items - self.done
        text = (
            f"{left} of {self.items} images of {self.run} have no mask and are not in it: "
            "they are dead letters or not done yet; see atrous status"
        )
        return [text] if left else []

    def rows(self, columns: tuple[str, ...] | None = None) -> Iterator[LabelRow]:
        """All rows, in order of shard; then those of each retry.

        Args:
            columns: To read; those that a file lacks are left out. None for all.

        Raises:
            RunError: A file is not what its record says, or the count of rows is not.
            ItemError: One cannot be read.
            StoreError: The store does not answer.
        """
        found = 0
        for record in _read_records(self.store, self.folders):
            for output in record.outputs:
                if output.name.startswith(_MASKS):
                    for row in self._read(output, columns):
                        found += 1
                        yield row
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
        for record in _read_records(self.store, self.folders):
            for output in record.outputs:
                if output.name.startswith(_MASKS):
                    with open_object(self.store, join(self.run, output.name)) as source:
                        return name in MaskFile(source).columns
        return True

    def _read(self, output: Output, columns: tuple[str, ...] | None) -> Iterator[LabelRow]:
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
    folders = tuple(list_folders(store, run))
    if not partial and not all(is_finished(store, one) for one in folders):
        raise UnfinishedError(
            f"{run} is not finished; give the command that started it again, then export "
            "it, or give --partial to export what is done"
        )
    return LabelRun(
        store=store,
        run=run,
        classes=classes,
        bundle=bundle,
        items=items,
        done=sum(record.items_done for record in _read_records(store, folders)),
        folders=folders,
    )


def describe_run(run: LabelRun) -> dict[str, Any]:
    """What a file says of where it is from."""
    return {"description": "Masks by Atrous", "bundle": run.bundle}


def _read_classes(held: dict[str, Any]) -> tuple[ClassInfo, ...]:
    return tuple(
        ClassInfo(name=one["name"], color=tuple(one["color"]))
        for one in held["bundle"]["classes"]
    )


def _read_records(store: Store, folders: tuple[str, ...]) -> Iterator[Record]:
    for folder in folders:
        yield from Ledger(store, folder).read()
