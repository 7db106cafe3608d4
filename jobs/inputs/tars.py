"""The images of a tar as items: WebDataset shards, and any plain tar.

Only headers are read. A member is an image by its name, and every one is accounted
for: one that cannot be read alone is an item with its reason.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import numpy as np

from jobs.errors import ItemError
from jobs.inputs.sources import counts
from jobs.inputs.tar_headers import EndError, check_plain, read_members
from jobs.shards import Item, Part, Refusal, Sidecar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from jobs.inputs.tar_headers import Member
    from jobs.storage import Store

TAR: Final = ".tar"
PACKED: Final = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
SIDECARS: Final = ("json", "txt", "cls")
"""What the name of a text beside an image ends in."""

MOST_SIDECARS: Final = 16
"""Of an image."""

MOST_SIDECAR: Final = 2**20
"""Bytes of one; a larger one stays in the tar."""

_HEAD: Final = 8
_MOST_NAME: Final = 2048
_MOST_SAMPLE: Final = 256
"""Members that are taken as one sample at most."""

_ODD: Final = {
    "link": "it is a link in its tar; pack the file itself",
    "device": "it is no file in its tar",
    "sparse": "it is a sparse file in its tar; pack it as a plain one",
}
_RECENT: Final = 100_000


def find_members(store: Store, tar: Item, suffixes: tuple[str, ...]) -> Iterator[Item]:
    """The images of a tar, in the order in which they lie.

    Args:
        store: Where it lies.
        tar: The tar itself.
        suffixes: What an image's name ends in, in lower case.

    Raises:
        StoreError: The store does not answer.
    """
    counter = _Counter(tar, suffixes)
    number = 0
    try:
        read = functools.partial(_fetch, store, tar)
        if tar.uri.lower().endswith(PACKED):
            raise ItemError("unsupported", _COMPRESSED)  # noqa: TRY301 - one way to refuse
        check_plain(read(0, _HEAD))
        sample: list[Member] = []
        for member in read_members(read, tar.size):
            number = member.number
            if sample and not _belongs(member, sample):
                yield from counter.take(sample)
                sample = []
            sample.append(member)
        yield from counter.take(sample)
    except EndError as error:
        yield from counter.take(sample)
        if not counter.was_cut:
            yield refuse(tar, error.number, error.code, f"{error.message}; {_LOST}")
    except ItemError as error:
        yield refuse(tar, number, error.code, error.message)


_COMPRESSED: Final = (
    "the tar is compressed, so its members cannot be read one by one; unpack it to a .tar"
)
_LOST: Final = "what may lie behind is not known"


def refuse(holder: Item, number: int, code: str, message: str) -> Item:
    """What stands for all that cannot be known of a tar or a table."""
    uri = f"{holder.uri}#{number:010d}" if number else holder.uri
    part = Part(of=holder.uri, at=0, refusal=Refusal(code=code, message=message))
    return Item(uri=uri, key=holder.key, size=0, etag=holder.etag, part=part)


def _fetch(store: Store, tar: Item, start: int, size: int) -> bytes:
    if start >= tar.size:
        return b""
    return store.read_part(tar.uri, start, size, etag=tar.etag)


def _belongs(member: Member, sample: list[Member]) -> bool:
    return _stem(member) == _stem(sample[0]) and len(sample) < _MOST_SAMPLE


def _stem(member: Member) -> bytes:
    """The name up to the first dot of its last part, which a sample shares."""
    folder, slash, name = member.name.rpartition(b"/")
    return folder + slash + name.split(b".", 1)[0]


def _suffix(member: Member) -> str:
    """What follows that dot."""
    name = member.name.rpartition(b"/")[2]
    return _readable(name.partition(b".")[2])


class _Counter:
    """Makes items of samples, each under a name that no other has."""

    def __init__(self, tar: Item, suffixes: tuple[str, ...]) -> None:
        self._tar, self._suffixes = tar, suffixes
        self._known = _Seen()
        self.was_cut = False
        """Whether the last image lies partly behind the end of the tar."""

    def take(self, sample: list[Member]) -> Iterator[Item]:
        """The images of a sample, with the texts beside them."""
        sidecars = tuple(
            Sidecar(suffix=_suffix(one), at=one.at, size=one.size)
            for one in sample
            if self._is_sidecar(one)
        )[:MOST_SIDECARS]
        for member in sample:
            name = _readable(member.name)
            if member.kind != "folder" and counts(name, self._suffixes):
                yield self._item(member, name, sidecars)

    def _is_sidecar(self, member: Member) -> bool:
        is_text = _suffix(member).rpartition(".")[2] in SIDECARS
        is_whole = member.kind == "file" and not self._is_cut(member)
        return is_text and is_whole and member.size <= MOST_SIDECAR

    def _is_cut(self, member: Member) -> bool:
        return member.at + member.size > self._tar.size

    def _item(self, member: Member, name: str, sidecars: tuple[Sidecar, ...]) -> Item:
        refusal = self._judge(member, name)
        self.was_cut = refusal is not None and refusal.code == "truncated"
        shown = name[:_MOST_NAME]
        key = f"{self._tar.key}/{shown}"
        if refusal is not None and refusal.message == _TWICE:
            key = f"{key}#{member.number}"
        return Item(
            uri=f"{self._tar.uri}#{member.number:010d}/{shown}",
            key=key,
            size=member.size,
            etag=self._tar.etag,
            part=Part(of=self._tar.uri, at=member.at, sidecars=sidecars, refusal=refusal),
        )

    def _judge(self, member: Member, name: str) -> Refusal | None:
        """Why a member cannot be read, if it cannot."""
        if self._known.has(name):
            return Refusal(code="unsupported", message=_TWICE)
        if member.kind in _ODD:
            return Refusal(code="unsupported", message=_ODD[member.kind])
        if len(name) > _MOST_NAME:
            text = f"its name has {len(name)} letters, at most {_MOST_NAME} are read"
            return Refusal(code="unsupported", message=text)
        if self._is_cut(member):
            text = f"the tar ends {self._tar.size - member.at} bytes into its {member.size}"
            return Refusal(code="truncated", message=text)
        return None


_TWICE: Final = "another member of its tar has the same name; give each its own"


class _Seen:
    """Names that were met, as 8 bytes each; a few million fit."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[NDArray[np.int64]] = []

    def has(self, name: str) -> bool:
        """Whether a name was met before; it is now."""
        number = hash(name)
        if number in self._recent or any(_holds(one, number) for one in self._sorted):
            return True
        self._recent.add(number)
        if len(self._recent) >= _RECENT:
            fresh = np.sort(np.fromiter(self._recent, np.int64, len(self._recent)))
            # Like sizes are joined, so that there are few to look through.
            while self._sorted and len(self._sorted[-1]) <= len(fresh):
                fresh = np.sort(np.concatenate([self._sorted.pop(), fresh]))
            self._sorted.append(fresh)
            self._recent = set()
        return False


def _holds(numbers: NDArray[np.int64], number: int) -> bool:
    at = int(np.searchsorted(numbers, number))
    return at < len(numbers) and int(numbers[at]) == number


def _readable(name: bytes) -> str:
    """A name as text that can be printed and joined to others without harm.

    What is no UTF-8, or cannot be printed, is written as ``%XX``, and so are the dots
    of a part that leads up.
    """
    text = name.removeprefix(b"./").decode("utf-8", "surrogateescape")
    if not text.isprintable():
        text = "".join(map(_escape, text))
    if ".." in text:
        text = "/".join("%2E%2E" if part == ".." else part for part in text.split("/"))
    return text


def _escape(letter: str) -> str:
    if letter.isprintable():
        return letter
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogateescape"))
