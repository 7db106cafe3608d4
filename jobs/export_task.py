"""What all exports of masks share: what was asked, the rows, and what is said of it."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError, ItemError
from jobs.export_place import check_free, folder_beside, place_file
from jobs.export_progress import show_progress
from jobs.export_run import open_run
from jobs.inputs.parts import read_part
from jobs.outputs.label_rows import MASK
from jobs.storage import S3, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobs.outputs.label_rows import LabelRow
    from jobs.storage import Access

SHOWN: Final = (
    "uri",
    "key",
    "height",
    "width",
    "image_height",
    "image_width",
    MASK,
    "mask_encoding",
    "mean_confidence",
)
"""Columns that drawing needs; those that a run lacks do without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskExport:
    """What a user asked for, in whichever format."""

    run: str
    """The run folder."""

    out: str
    """Location of the file or folder to write."""

    access: Access
    overwrite: bool = False
    """Replace what is there."""

    partial: bool = False
    """Take what is done of a run that is not finished."""


class Task:
    """One export under way."""

    def __init__(self, asked: MaskExport, what: str) -> None:
        """Look at the run.

        Args:
            asked: What a user asked for.
            what: The format, for people.

        Raises:
            InputError: It is no label run.
            RunError: The run folder is damaged.
            UnfinishedError: It is not finished.
            StoreError: The store does not answer.
        """
        self.asked, self._what = asked, what
        self.store = open_store(asked.access)
        self.run = open_run(self.store, asked.run, partial=asked.partial)
        self.notes = self.run.notes
        self._resized = 0
        self._lock = threading.Lock()
        self._missing: Counter[str] = Counter()

    def rows(
        self, columns: tuple[str, ...] | None = SHOWN, *, sources: bool = False
    ) -> Iterator[LabelRow]:
        """All rows, with a line about them every few seconds.

        Args:
            columns: To read; None for all.
            sources: Say of each what was planned, so that it can be fetched.
        """
        rows = self.run.rows(columns, sources=sources)
        for row in show_progress(rows, self.run.done, f"export {self._what}"):
            self._resized += row.mask.size > 0 and row.mask.shape != row.size
            yield row

    def fetch(self, row: LabelRow) -> bytes | None:
        """The image of a row, as it was when it was labelled; None where it is not.

        Safe to use from many threads.

        Raises:
            StoreError: The store does not answer.
        """
        if row.source is None:
            return None
        shard, item = row.source
        try:
            if item.part is not None:
                return read_part(self.store, shard, item)[0]
            return self.store.read(item.uri, etag=item.etag)
        except ItemError as error:
            with self._lock:
                self._missing[error.code] += 1
            return None

    def write_file(self, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Write one file, whole or not at all.

        Args:
            write: Writes it at a local path with the suffix of the file asked for, and
                says what.

        Returns:
            What was written; and ``notes`` for people.
        """
        asked = self.asked
        with folder_beside(self.store, asked.out) as scratch:
            path = scratch / f"export{suffix_of(asked.out)}"
            found = write(path)
            size = place_file(self.store, asked.out, path, overwrite=asked.overwrite)
        return self.summary(file=asked.out, bytes=size, **found)

    def summary(self, **found: object) -> dict[str, Any]:
        """What was written; and ``notes`` for people."""
        if self._resized:
            self.notes.append(
                f"{self._resized} masks are of another size than their images, and were "
                "brought to it"
            )
        for code, count in sorted(self._missing.items()):
            self.notes.append(
                f"{count} images could not be read ({code}); their masks are in it alone"
            )
        about = {"run": self.asked.run, "format": self._what, "images": self.run.done}
        return about | found | {"notes": self.notes}


def suffix_of(out: str) -> str:
    """Of a file, in lower case."""
    return Path(out).suffix.lower()


def require_suffix(out: str, *allowed: str) -> None:
    """Refuse the name of a file that does not say its format.

    Raises:
        InputError: It ends otherwise.
    """
    if suffix_of(out) not in allowed:
        *most, last = allowed
        shown = f"{', '.join(most)} or {last}" if most else last
        raise InputError(f"{out} must end in {shown}, which says the format")


def check_file(asked: MaskExport, *allowed: str) -> None:
    """Refuse a file that may not be written, before anything is read.

    Raises:
        InputError: It ends otherwise, or is there already.
    """
    require_suffix(asked.out, *allowed)
    check_free(open_store(asked.access), asked.out, overwrite=asked.overwrite)


def describe_masks(found: dict[str, Any]) -> str:
    """What was written, in a line for people."""
    place = found.get("file") or found["folder"]
    counts = [f"{found['images']} images"]
    counts += [f"{found[one]} {one}" for one in ("annotations", "files") if one in found]
    return f"{place}, {found['bytes'] / 1e6:.2f} MB: {', '.join(counts)}"


def is_local(uri: str) -> bool:
    """Whether a location is a path of this machine."""
    return not uri.startswith(S3) and "://" not in uri
