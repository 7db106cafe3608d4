"""The ledger: one small record per finished shard, written last, first one wins.

A shard is done when its record exists, and not before. Records are created
once under a name that holds the shard's index alone, so any process may die at
any line and two drivers may run at once. No clock and no lock is involved.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import RunError
from jobs.prefetch import map_ahead
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Item
    from jobs.storage import Store

_SHARDS_A_FOLDER: Final = 1000
_READERS: Final = 16


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
    """Time by stage: ``read``, ``segment``, ``write``, ``total``."""

    worker: str = ""
    """Host and process that did it."""

    def __post_init__(self) -> None:
        """Check that no item is lost."""
        if self.items_done + len(self.dead_letters) != self.items:
            raise ValueError(
                f"shard {self.shard} has {self.items} items, got {self.items_done} done "
                f"and {len(self.dead_letters)} dead letters"
            )


def dead_letter(item: Item, stage: str, code: str, message: str) -> DeadLetter:
    """The dead letter of a whole item."""
    return DeadLetter(uri=item.uri, key=item.key, stage=stage, code=code, message=message)


class Ledger:
    """The records of one run."""

    def __init__(self, store: Store, run: str) -> None:
        """Look below ``run/ledger``."""
        self._store = store
        self._root = join(run, "ledger")

    def commit(self, record: Record) -> bool:
        """Write a record unless the shard has one; False if it had."""
        text = json.dumps(asdict(record), sort_keys=True)
        return self._store.create(self._uri(record.shard), text.encode())

    def read(self) -> Iterator[Record]:
        """All records there are, in order of shard."""
        uris = [found.uri for found in self._store.find(self._root)]
        records = [uri for uri in uris if uri.endswith(".json")]
        texts = map_ahead(self._store.read, records, threads=_READERS)
        yield from map(_parse, records, texts)

    def _uri(self, shard: int) -> str:
        folder = shard // _SHARDS_A_FOLDER
        return join(self._root, f"{folder:06d}", f"{shard:09d}.json")


def _parse(uri: str, data: bytes) -> Record:
    try:
        fields: dict[str, Any] = json.loads(data)
        letters = tuple(DeadLetter(**letter) for letter in fields.pop("dead_letters"))
        outputs = tuple(Output(**output) for output in fields.pop("outputs"))
        return Record(**fields, dead_letters=letters, outputs=outputs)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"{uri} is not a ledger record of this version ({error}); "
            "choose a new run folder"
        ) from error
