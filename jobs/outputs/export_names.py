"""Names of exported files: of keys that may be anything, safe, and no two alike.

A key is split at ``/``. What a file system could take for something else is written
with percent signs, so that different keys stay different; an ordinary key stays as
it is.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

_UNSAFE: Final = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff%\\:*?"<>|]')
_ODD_START: Final = re.compile(r"[.~-]|(con|prn|aux|nul|com\d|lpt\d)(\.|\Z)", re.IGNORECASE)
"""What hides a file, looks like an option or a home, or is a device somewhere."""

_LONGEST: Final = 200
_KEPT: Final = 60
_DIGITS: Final = 16
_SUFFIX: Final = re.compile(r"(?<=[^/])\.[A-Za-z0-9]{1,8}\Z")


def safe_name(key: str) -> str:
    """A relative path of a key, with ``/`` between its parts; other keys get others.

    It never leaves the folder that it is put in.
    """
    return "/".join(_safe_part(part) for part in key.split("/"))


def _safe_part(part: str) -> str:
    if not part:
        return "%"
    name = _UNSAFE.sub(_percent, part)
    if _ODD_START.match(name):
        name = _percent(name[0]) + name[1:]
    if name[-1] in ". ":
        name = name[:-1] + _percent(name[-1])
    if len(name.encode()) <= _LONGEST:
        return name
    suffix = _SUFFIX.search(name)
    return f"{name[:_KEPT]}-{_digest(part)}{suffix[0] if suffix else ''}"


def _percent(found: str | re.Match[str]) -> str:
    text = found if isinstance(found, str) else found[0]
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def _digest(text: str) -> str:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_DIGITS]


class Stems:
    """Names without their suffix, of which no two are alike on any file system."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Look through all keys once; eight bytes are kept for each."""
        found = array("Q", (_short(_cut(safe_name(key))) for key in keys))
        digests = np.sort(np.frombuffer(found, dtype=np.uint64))
        twice = digests[1:][digests[1:] == digests[:-1]]
        self._shared = frozenset(twice.tolist())
        self.shared = 0
        """Names so far that were made different."""

    def find(self, key: str) -> str:
        """The name of a key; with 16 digits of SHA-256 where others would share it."""
        stem = _cut(safe_name(key))
        if _short(stem) not in self._shared:
            return stem
        self.shared += 1
        return f"{stem}-{_digest(key)}"


def _cut(name: str) -> str:
    return _SUFFIX.sub("", name)


def _short(stem: str) -> int:
    # Some file systems take capitals and small letters for the same.
    data = stem.casefold().encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
