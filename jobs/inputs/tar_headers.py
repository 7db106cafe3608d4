"""Read the headers of a tar, and not the bytes between them.

All that is in use: the old format, ustar, GNU with its long names, and PAX. The bytes
of a header are not trusted: what it says is checked against the size of the object,
and no name is ever a path.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from jobs.errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Fetch = Callable[[int, int], bytes]
    """Bytes of the tar: the first one, and how many; fewer where it ends."""

BLOCK: Final = 512
MOST_NAME: Final = 2**16
"""Bytes of an extended header, which holds a long name and little else."""

LEAST_AHEAD: Final = 2 * BLOCK
MOST_AHEAD: Final = 8 * 2**20
"""Bytes that are fetched at once where members are small."""

_NEAR: Final = 2**16
"""Bytes that are sooner read than jumped over."""

_MOST: Final = 2**62
_DIGITS: Final = 20

_KINDS: Final = {
    b"1": "link",
    b"2": "link",
    b"3": "device",
    b"4": "device",
    b"5": "folder",
    b"6": "device",
    b"S": "sparse",
}
_HEADLESS: Final = {"link", "device", "folder"}
"""Kinds that have no bytes, whatever their size."""

Kind = Literal["file", "link", "device", "folder", "sparse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a header says."""

    number: int
    """Position in the tar, from 0; an extended header belongs to its member."""

    name: bytes
    kind: Kind
    at: int
    """The first byte of its data."""

    size: int


class EndError(Exception):
    """The tar ends, or goes on with what is none, before its end is marked."""

    def __init__(self, code: str, number: int, at: int, message: str) -> None:
        """Say where.

        Args:
            code: ``truncated`` or ``undecodable``.
            number: Members before it.
            at: Byte of the tar.
            message: For people.
        """
        super().__init__(message)
        self.code, self.number, self.at, self.message = code, number, at, message


class Window:
    """Fetches the parts of an object that headers lie in.

    The read ahead doubles while what is asked for next is near, and begins anew behind
    a large member: small members come many in one request, and large ones are jumped
    over.
    """

    def __init__(self, fetch: Fetch) -> None:
        """Hold nothing yet."""
        self._fetch = fetch
        self._start, self._data = 0, b""
        self._ahead = LEAST_AHEAD

    def read(self, start: int, size: int) -> bytes:
        """Some bytes; fewer where the object ends."""
        offset = start - self._start
        if offset >= 0 and offset + size <= len(self._data):
            return self._data[offset : offset + size]
        gap = start - (self._start + len(self._data))
        near = gap <= max(2 * self._ahead, _NEAR)
        self._ahead = min(2 * self._ahead, MOST_AHEAD) if near else LEAST_AHEAD
        self._start, self._data = start, self._fetch(start, max(size, self._ahead))
        return self._data[:size]


def read_members(fetch: Fetch, size: int) -> Iterator[Member]:
    """The members of a tar, in order.

    Args:
        fetch: Gives bytes of it.
        size: Of the tar, in bytes.

    Raises:
        EndError: Its end is missing, or a header is damaged; what follows is unknown.
        ItemError: The tar cannot be read.
    """
    window, at, number = Window(fetch), 0, 0
    while True:
        header = window.read(at, BLOCK)
        if header.count(0) == BLOCK:
            return
        if len(header) < BLOCK:
            text = f"the tar ends at byte {size}, without the mark of its end"
            raise EndError("truncated", number, at, text)
        member, at = _read_member(window, header, at, number)
        yield member
        number += 1


def _read_member(window: Window, header: bytes, at: int, number: int) -> tuple[Member, int]:
    """A member, whose header may follow others that extend it, and where it ends."""
    said: dict[bytes, bytes] = {}
    while (kind := header[156:157]) in b"LKxgX" and kind:
        size = _size(header, at, number)
        if size > MOST_NAME:
            text = f"the header at byte {at} has {size} bytes, at most {MOST_NAME} are read"
            raise EndError("undecodable", number, at, text)
        data = window.read(at + BLOCK, size)
        if kind == b"L":
            said[b"path"] = data.split(b"\0", 1)[0]
        elif kind in b"xX":
            said |= _records(data, at, number)
        at += BLOCK + _padded(size)
        header = window.read(at, BLOCK)
        if len(header) < BLOCK:
            raise EndError("truncated", number, at, "the tar ends within a header")
    return _finish(window, header, at, number, said)


def _finish(
    window: Window, header: bytes, at: int, number: int, said: dict[bytes, bytes]
) -> tuple[Member, int]:
    size, name = _size(header, at, number), said.get(b"path", _name(header))
    if b"size" in said:
        size = _parse(said[b"size"], 10)
        if size < 0:
            text = f"the header at byte {at} has no size"
            raise EndError("undecodable", number, at, text)
    kind: Kind = _KINDS.get(header[156:157], "file")  # type: ignore[assignment]
    if kind == "file" and header[156:157] in {b"0", b"\0"} and name.endswith(b"/"):
        kind = "folder"  # the old format knows no other way to say it
    start = at + BLOCK
    if kind == "sparse":
        start = _skip_map(window, header, start, number)
    elif any(key.startswith(b"GNU.sparse.") for key in said):
        kind = "sparse"
        name = said.get(b"GNU.sparse.name", name)
    member = Member(number=number, name=name, kind=kind, at=start, size=size)
    if kind in _HEADLESS:
        return replace(member, size=0), start
    return member, start + _padded(size)


def _skip_map(window: Window, header: bytes, start: int, number: int) -> int:
    """Where the data of a sparse file begins, behind the blocks that map it."""
    is_more = header[482:483] not in {b"", b"\0"}
    while is_more:
        block = window.read(start, BLOCK)
        if len(block) < BLOCK:
            raise EndError("truncated", number, start, "the tar ends within a header")
        start += BLOCK
        is_more = block[504:505] != b"\0"
    return start


def _size(header: bytes, at: int, number: int) -> int:
    """The size that a header says, once its checksum is right."""
    summed = sum(header[:148]) + 8 * 32 + sum(header[156:BLOCK])
    found = _parse(header[148:156].strip(b" \0"), 8)
    # Some old programs add the bytes up as signed ones.
    negative = sum(byte >> 7 for byte in header[:148] + header[156:BLOCK])
    signed = summed - 256 * negative
    if found not in {summed, signed}:
        raise EndError("undecodable", number, at, f"there is no header at byte {at}")
    return _number(header[124:136], at, number)


def _number(field: bytes, at: int, number: int) -> int:
    """A number of a header: octal digits, or bytes if the first bit is set."""
    if field[:1] == b"\x80":
        value = int.from_bytes(field[1:], "big")
    else:
        value = _parse(field.split(b"\0", 1)[0].strip() or b"0", 8)
    if not 0 <= value < _MOST:
        raise EndError("undecodable", number, at, f"the header at byte {at} has no size")
    return value


def _parse(digits: bytes, base: int) -> int:
    """A number without a sign; -1 for what is none."""
    return int(digits, base) if digits.isdigit() and _is_of(digits, base) else -1


def _is_of(digits: bytes, base: int) -> bool:
    return len(digits) < _DIGITS and max(digits) - ord("0") < base


def _name(header: bytes) -> bytes:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    # Only ustar has one there; GNU keeps times in its place.
    if prefix and header[257:263] == b"ustar\0":
        return prefix + b"/" + name
    return name


def _records(data: bytes, at: int, number: int) -> dict[bytes, bytes]:
    """What a PAX header says: ``LENGTH KEY=VALUE`` and a line break, one by one."""
    found: dict[bytes, bytes] = {}
    while data.strip(b"\0"):
        length, _, _ = data.partition(b" ")
        count = _parse(length, 10)
        record = data[len(length) + 1 : count]
        key, equals, value = record.partition(b"=")
        if not equals or not value.endswith(b"\n") or count > len(data):
            text = f"the header at byte {at} is damaged"
            raise EndError("undecodable", number, at, text)
        found[key] = value[:-1]
        data = data[count:]
    return found


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def check_plain(head: bytes) -> None:
    """Refuse a tar whose members cannot be read one by one.

    Raises:
        ItemError: ``unsupported``: it is packed as a whole.
    """
    for name, start in _PACKED.items():
        if head.startswith(start):
            raise ItemError(
                "unsupported",
                f"the tar is compressed with {name}, so its members cannot be read one by "
                "one; unpack it to a plain .tar",
            )


_PACKED: Final = {
    "gzip": b"\x1f\x8b",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
}
