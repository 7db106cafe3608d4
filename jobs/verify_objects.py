"""What lies in a run's folders of outputs, as one listing of them says.

Memory grows with the number of objects, by 33 bytes each: names and ETags are held
as 64 bits of a hash. Of a million names no two are alike, but for one chance in
thirty million, and a name that is taken for another is never called unnamed.
"""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.storage import Object, Store

FOLDERS: Final = ("masks", "pieces", "rasters", "confidence", "probabilities", "scores")
"""Where a run keeps its outputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """An object that was listed."""

    size: int
    etag: int
    """``short`` of it."""


def short(text: str) -> int:
    """64 bits that stand for a text."""
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest())


def is_temporary(name: str) -> bool:
    """Whether it is a file in the making, or one whose maker was killed."""
    return any(part.startswith(".") for part in name.split("/"))


def list_outputs(store: Store, run: str) -> Iterator[tuple[str, Object]]:
    """Names below the run folder, and the objects, of all the outputs there are."""
    for folder in FOLDERS:
        for found in store.iterate(join(run, folder)):
            yield found.uri.removeprefix(f"{run}/"), found


class Names:
    """A set of names that takes eight bytes for each."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._new = array("Q")
        self._sorted: np.ndarray = np.empty(0, dtype=np.uint64)

    def add(self, name: str) -> None:
        """Take a name in."""
        self._new.append(short(name))

    def __contains__(self, name: str) -> bool:
        """Whether a name was taken in."""
        if self._new:
            fresh = np.frombuffer(self._new, dtype=np.uint64)
            self._sorted = np.union1d(self._sorted, fresh)
            self._new = array("Q")
        return _place(self._sorted, short(name)) is not None


class Inventory:
    """The outputs there are: each is looked up by name, and what never was is unnamed."""

    def __init__(self, store: Store, run: str) -> None:
        """List them."""
        self._store, self._run = store, run
        self.temporary = 0
        names, sizes, etags = array("Q"), array("q"), array("Q")
        for name, found in list_outputs(store, run):
            if is_temporary(name):
                self.temporary += 1
                continue
            names.append(short(name))
            sizes.append(found.size)
            etags.append(short(found.etag))
        order = np.argsort(np.frombuffer(names, dtype=np.uint64), kind="stable")
        self._names = np.frombuffer(names, dtype=np.uint64)[order]
        self._sizes = np.frombuffer(sizes, dtype=np.int64)[order]
        self._etags = np.frombuffer(etags, dtype=np.uint64)[order]
        self._named = np.zeros(len(order), dtype=np.bool_)

    def find(self, name: str) -> Held | None:
        """An object that something names; None where it was not listed."""
        at = _place(self._names, short(name))
        if at is None:
            return None
        self._named[at] = True
        return Held(size=int(self._sizes[at]), etag=int(self._etags[at]))

    def unnamed(self) -> Iterator[tuple[str, Object]]:
        """The objects that nothing named so far; the folders are listed again."""
        if self._named.all():
            return
        for name, found in list_outputs(self._store, self._run):
            at = _place(self._names, short(name))
            if at is not None and not self._named[at]:
                yield name, found


def _place(ordered: np.ndarray, value: int) -> int | None:
    at = int(np.searchsorted(ordered, np.uint64(value)))
    return at if at < len(ordered) and ordered[at] == value else None
