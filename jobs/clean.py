"""Remove what killed processes and late attempts left in a run folder.

An object goes only if all of this holds:

- no record names it, and no attempt under way may write it or have it recorded: see
  ``jobs.clean_names``; or it is a piece of a raster that is assembled without a gap;
  or it is a temporary file, a probe, or an upload that was never completed;
- it is older than asked for, and a file in the making of a run that is not finished is
  an hour old at least. The store's clock alone says so: what is removed was written
  before a small object that this command writes first, to learn the time.

So whatever appears while this command looks around stays, and so does everything of
a run whose plan or ledger is not sound.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.clean_names import References
from jobs.errors import ItemError, StoreError
from jobs.folder import require_job
from jobs.outputs.files import SCRATCH
from jobs.prefetch import map_ahead
from jobs.storage import S3, join
from jobs.verify_objects import is_temporary, list_outputs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jobs.storage import Object, Store

KINDS: Final = {
    "temporary": "a file in the making, of a process that was killed",
    "probe": "what a run wrote to see what the store can do",
    "unnamed": "an output that no record names or will name",
    "spent": "a piece of a raster that is assembled without a gap",
    "upload": "parts of an object that was never completed",
}
"""What may be left over; the names are stable."""

_PROBE: Final = "_probe"
_NEW: Final = ".new-"
_IN_USE: Final = timedelta(hours=1)
"""A younger file in the making may be somebody's who is at work."""

_REMOVERS: Final = 16
_MOST_KEPT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """One thing that nobody needs."""

    kind: str
    """One of ``KINDS``."""

    name: str
    """Location below the run folder."""

    size: int
    """Bytes; 0 of an upload, whose parts are not counted."""

    age_s: float


@dataclass(slots=True, kw_only=True)
class Cleaning:
    """What was found; of a size that does not grow with it."""

    run: str
    deleted: bool
    """Whether it is gone now."""

    counts: Counter[str] = field(default_factory=Counter)
    """Leftovers by kind."""

    size: int = 0
    """Bytes of them all."""

    young: int = 0
    """Leftovers that stay, as they are not old enough."""

    first: list[Leftover] = field(default_factory=list)
    """The first thousand of them."""

    def add(self, one: Leftover) -> None:
        """Count one."""
        self.counts[one.kind] += 1
        self.size += one.size
        if len(self.first) < _MOST_KEPT:
            self.first.append(one)

    def to_json(self) -> dict[str, Any]:
        """What ``atrous clean --json`` prints."""
        return {
            "run": self.run,
            "deleted": self.deleted,
            "counts": dict(sorted(self.counts.items())),
            "bytes": self.size,
            "young": self.young,
            "leftovers": [asdict(one) for one in self.first],
        }


def clean_run(
    store: Store,
    run: str,
    *,
    delete: bool,
    older_than: timedelta,
    uploads_older_than: timedelta,
) -> Cleaning:
    """Find what is left over, and remove it if that is asked for.

    Args:
        store: Where the run folder lies.
        run: The run folder.
        delete: Remove it. Otherwise nothing is written at all, and ages are told by
            the clock of this machine.
        older_than: Age of what is removed, at least.
        uploads_older_than: The same of uploads that were never completed.

    Raises:
        InputError: The folder holds no run.
        RunError: Plan or ledger are not sound, or something may not be removed.
        StoreError: The store does not answer.
    """
    require_job(store, run)
    now = _ask_time(store, run) if delete else datetime.now(UTC)
    # What is named is read before the outputs are listed: whatever is planned later is
    # written after the time was asked for, and stays.
    references = References(store, run)
    least = timedelta() if references.finished else _IN_USE
    folders = _old_folders(run, now - max(older_than, least))
    found = Cleaning(run=run, deleted=delete)
    search = _Search(store, run, now, found)
    objects = search.objects(references, older_than, temporary=max(older_than, least))
    for several in (objects, search.uploads(uploads_older_than)):
        remove = functools.partial(_remove, keep=not delete)
        for one in map_ahead(remove, several, threads=_REMOVERS):
            found.add(one)
    for folder in folders if delete else ():
        store.sweep(folder)
    return found


def _ask_time(store: Store, run: str) -> datetime:
    """The time by the store's clock, which alone says how old an object is."""
    uri = join(run, _PROBE, uuid.uuid4().hex)
    store.create(uri, b"what is the time")
    try:
        modified = store.stat(uri).modified
    finally:
        store.delete(uri)
    if modified is None:
        raise StoreError(f"the store does not say when {uri} was written")
    return modified


Removal = tuple[Leftover, "Callable[[], None]"]


def _remove(removal: Removal, *, keep: bool) -> Leftover:
    leftover, delete = removal
    if not keep:
        delete()
    return leftover


class _Search:
    """Looks for leftovers of a run; what is too young is only counted."""

    def __init__(self, store: Store, run: str, now: datetime, found: Cleaning) -> None:
        self._store, self._run, self._now, self._found = store, run, now, found

    def objects(
        self, references: References, older_than: timedelta, *, temporary: timedelta
    ) -> Iterator[Removal]:
        """Objects that are old enough; of files in the making, ``temporary``."""
        for kind, one in self._objects(references):
            age = None if one.modified is None else self._now - one.modified
            # Of the very second of the question none is older: stores round the time.
            if age is None or age <= (temporary if kind == "temporary" else older_than):
                self._found.young += 1
                continue
            leftover = Leftover(
                kind=kind,
                name=one.uri.removeprefix(f"{self._run}/"),
                size=one.size,
                age_s=age.total_seconds(),
            )
            yield leftover, functools.partial(self._delete, one)

    def uploads(self, older_than: timedelta) -> Iterator[Removal]:
        """Uploads that are old enough."""
        for upload in self._store.uploads(self._run):
            age = self._now - upload.started
            if age <= older_than:
                self._found.young += 1
                continue
            name = f"{upload.uri.removeprefix(f'{self._run}/')} ({upload.id})"
            leftover = Leftover(kind="upload", name=name, size=0, age_s=age.total_seconds())
            yield leftover, functools.partial(self._store.abort, upload)

    def _delete(self, one: Object) -> None:
        # A retry calls its COGs as the run did: one may have come since the listing.
        with contextlib.suppress(ItemError):
            if self._store.stat(one.uri).etag == one.etag:
                self._store.delete(one.uri)

    def _objects(self, references: References) -> Iterator[tuple[str, Object]]:
        yield from self._temporary()
        for one in self._store.iterate(join(self._run, _PROBE)):
            yield "probe", one
        for name, one in list_outputs(self._store, self._run):
            kind = None if is_temporary(name) else references.reason(name)
            if kind is not None:
                yield kind, one

    def _temporary(self) -> Iterator[tuple[str, Object]]:
        """Files in the making; a bucket has none."""
        if self._run.startswith(S3):
            return
        for one in self._store.iterate(self._run):
            name = one.uri.removeprefix(f"{self._run}/")
            if name.startswith(f"{SCRATCH}/") or Path(name).name.startswith(_NEW):
                yield "temporary", one


def _old_folders(run: str, before: datetime) -> list[str]:
    """Local folders of temporary files that nothing was put into since."""
    if run.startswith(S3):
        return []
    found = []
    for folder in sorted(Path(run, SCRATCH).glob("**/"), reverse=True):
        with contextlib.suppress(FileNotFoundError):
            if datetime.fromtimestamp(folder.stat().st_mtime, UTC) < before:
                found.append(str(folder))
    return [*found, join(run, _PROBE)]


def describe_cleaning(found: Cleaning, *, most: int = 100) -> str:
    """The same for people, ending with the next command to type."""
    lines = [
        f"{one.kind}  {one.name}: {one.size} bytes, {one.age_s / 3600:.1f} h old"
        for one in found.first[:most]
    ]
    total = found.counts.total()
    if total > len(lines):
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(found.counts.items()))
        lines.append(f"and {total - len(lines)} more ({kinds}); see --json")
    if found.young:
        lines.append(f"{found.young} more are too young to go; see --older-than")
    size = f"{total} leftover{'' if total == 1 else 's'}, {found.size / 1e6:.2f} MB"
    if not total:
        lines.append(f"nothing to remove; prove it: atrous verify {found.run}")
    elif found.deleted:
        lines.append(f"removed {size}; prove it: atrous verify {found.run}")
    else:
        lines.append(f"{size}; remove it: atrous clean {found.run} --delete")
    return "\n".join(lines)
