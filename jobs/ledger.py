"""The ledger: one small record per finished shard, written last, first one wins.

A shard is done when its record exists, and not before. Records are created
once under a name that holds the shard's index alone, so any process may die at
any line and two drivers may run at once. No clock and no lock is involved. What
a record says of an output holds for the object that stands, whoever wrote it.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import RunError
from jobs.prefetch import map_ahead
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.shards import Item
    from jobs.storage import Store

GROUP: Final = 1000
"""Records in a folder of the ledger, and in an object of ``ledger/merged``."""

_READERS: Final = 16
_MERGED: Final = "merged"
_TASKS: Final = "tasks"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """An input that could not be done, with its reason."""

    uri: str
    key: str
    stage: str
    """``plan``, ``read`` or ``segment``."""

    code: str
    """A code of ``ItemError``."""

    message: str
    attempts: int = 1
    row: int | None = None
    """First row of the block that is missing; None for a whole item."""

    col: int | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """One object that a shard wrote."""

    name: str
    """Location below the run folder."""

    size: int
    """Bytes."""

    sha256: str
    etag: str = ""
    """What the store called it when it was created."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What became of one shard. Every item and pixel is counted exactly once."""

    shard: int
    fingerprint: str
    items: int
    """Items of the shard."""

    items_done: int
    dead_letters: tuple[DeadLetter, ...] = ()
    pixels_done: int = 0
    pixels_nodata: int = 0
    pixels_dead: int = 0
    outputs: tuple[Output, ...] = ()
    """Empty where every pixel is nodata or every item a dead letter."""

    seconds: dict[str, float] = field(default_factory=dict)
    """Time by stage: ``read``, ``segment``, ``write``, ``total``; and within them, what
    may overlap: ``network`` while it computed, ``decode`` while an image was decoded."""

    tiles: int = 0
    """That the network saw; 0 of these in a record of before they were counted."""

    pixels_seen: int = 0
    """Of all slots of all its batches."""

    pixels_padding: int = 0
    """Those of them past an image's edge or in empty slots."""

    images_decoded: int = 0
    """Where decoding is measured: see ``seconds``."""

    bytes_decoded: int = 0
    """Bytes of their files."""

    worker: str = ""
    """Host and process that did it."""

    attempts: int = 1
    """Tries that it took, as far as the driver knew."""

    def __post_init__(self) -> None:
        """Check that no item is lost."""
        if self.items_done + len(self.dead_letters) != self.items:
            raise ValueError(
                f"shard {self.shard} has {self.items} items, got {self.items_done} done "
                f"and {len(self.dead_letters)} dead letters"
            )


_RESULT: Final = (
    "shard",
    "fingerprint",
    "items",
    "items_done",
    "dead_letters",
    "pixels_done",
    "pixels_nodata",
    "pixels_dead",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """What a task made, e.g. the assembly of a raster."""

    key: str
    """File name that is the task's alone."""

    fingerprint: str
    outputs: tuple[Output, ...]
    worker: str = ""
    seconds: float = 0.0
    """How long it took; of no account for what it is."""


def bare(record: Record) -> Record:
    """What became of a shard, without what it took and where its output lies."""
    return Record(**{name: getattr(record, name) for name in _RESULT})


def dead_letter(item: Item, stage: str, code: str, message: str) -> DeadLetter:
    """The dead letter of a whole item."""
    return DeadLetter(uri=item.uri, key=item.key, stage=stage, code=code, message=message)


class Ledger:
    """The records of one plan, and of the tasks that its shards made possible.

    A complete thousand is also kept as one object, so that taking up a run of a
    million shards reads a thousand objects.
    """

    def __init__(self, store: Store, folder: str) -> None:
        """Look below ``folder/ledger``."""
        self._store = store
        self._root = join(folder, "ledger")

    def commit(self, record: Record) -> Record:
        """Write a shard's record unless it has one; the record that stands."""
        uri = self._uri(record.shard)
        if self._store.create(uri, to_json(record)):
            return record
        return parse_record(uri, self._store.read(uri))

    def read(self) -> Iterator[Record]:
        """All records there are, in order of shard."""
        yield from self._read_all(self._uris())

    def merged(self) -> set[int]:
        """Numbers of the thousands that are kept as one object."""
        found = self._store.find(join(self._root, _MERGED))
        return {int(Path(one.uri).name.split(".")[0]) for one in found if _is_ours(one.uri)}

    def merge(self, thousand: int) -> bool:
        """Keep a complete thousand as one object too; False if it is not complete."""
        uris = self._open_uris(thousand)
        if len(uris) != GROUP:
            return False
        records = self._read_all(uris)
        lines = b"".join(to_json(record) + b"\n" for record in records)
        # Without a time in it, so that two drivers write the same bytes.
        self._store.create(self._merged_uri(thousand), gzip.compress(lines, 6, mtime=0))
        return True

    def commit_task(self, task: TaskRecord) -> TaskRecord:
        """Write what a task made unless it is written; the record that stands."""
        uri = self._task_uri(task.key)
        if self._store.create(uri, to_json(task)):
            return task
        return _parse_task(uri, self._store.read(uri))

    def has_task(self, key: str) -> bool:
        """Whether a task is done."""
        return self._store.exists(self._task_uri(key))

    def task_keys(self) -> set[str]:
        """Keys of the tasks that are done."""
        return {Path(uri).name.removesuffix(".json") for uri in self._task_uris()}

    def read_tasks(self) -> Iterator[TaskRecord]:
        """What the tasks made, in order of key."""
        uris = self._task_uris()
        yield from map(
            _parse_task, uris, map_ahead(self._store.read, uris, threads=_READERS)
        )

    def _uris(self) -> Iterator[str]:
        """Objects that hold records, each record in one of them."""
        merged = self.merged()
        folders = {
            int(name) for name in self._store.folders(self._root) if name.isdecimal()
        }
        for thousand in sorted(merged | folders):
            if thousand in merged:
                yield self._merged_uri(thousand)
            else:
                yield from self._open_uris(thousand)

    def _open_uris(self, thousand: int) -> list[str]:
        found = self._store.find(join(self._root, f"{thousand:06d}"))
        return [one.uri for one in found if _is_ours(one.uri)]

    def _task_uris(self) -> list[str]:
        found = self._store.find(join(self._root, _TASKS))
        return [one.uri for one in found if _is_ours(one.uri)]

    def _read_all(self, uris: Iterable[str]) -> Iterator[Record]:
        """The records in some objects; what is read ahead is not yet unpacked."""
        names, uris = itertools.tee(uris)
        for uri, data in zip(
            names, map_ahead(self._store.read, uris, threads=_READERS), strict=True
        ):
            yield from (parse_record(uri, line) for line in _lines(uri, data))

    def _task_uri(self, key: str) -> str:
        return join(self._root, _TASKS, f"{key}.json")

    def _merged_uri(self, thousand: int) -> str:
        return join(self._root, _MERGED, f"{thousand:06d}.jsonl.gz")

    def _uri(self, shard: int) -> str:
        return join(self._root, f"{shard // GROUP:06d}", f"{shard:09d}.json")


def _lines(uri: str, data: bytes) -> list[bytes]:
    if uri.endswith(".json"):
        return [data]
    try:
        return gzip.decompress(data).splitlines()
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{uri} is damaged ({error}); see atrous verify") from error


def _is_ours(uri: str) -> bool:
    """Not a file that somebody is still writing."""
    return not Path(uri).name.startswith(".")


def to_json(record: Record | TaskRecord) -> bytes:
    """One line of JSON with sorted keys."""
    return json.dumps(asdict(record), sort_keys=True).encode()


def parse_record(uri: str, data: bytes | str) -> Record:
    """Read a record's JSON, found at ``uri``.

    Raises:
        RunError: It is no record of this version.
    """
    with _foreign(uri):
        fields: dict[str, Any] = json.loads(data)
        letters = tuple(DeadLetter(**letter) for letter in fields.pop("dead_letters"))
        outputs = tuple(Output(**output) for output in fields.pop("outputs"))
        return Record(**fields, dead_letters=letters, outputs=outputs)


def _parse_task(uri: str, data: bytes) -> TaskRecord:
    with _foreign(uri):
        fields: dict[str, Any] = json.loads(data)
        outputs = tuple(Output(**output) for output in fields.pop("outputs"))
        return TaskRecord(**fields, outputs=outputs)


@contextlib.contextmanager
def _foreign(uri: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"{uri} is not a ledger record of this version ({error}); "
            "choose a new run folder"
        ) from error
