"""Images and masks as WebDataset: tars of bounded size, an image's files together.

What readers rely on: the files of a sample follow each other, and their names are
alike up to the first dot behind the last slash. The same samples give the same bytes.
"""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_BLOCK: Final = 512
_MODE: Final = 0o644


class TarWriter:
    """Writes samples into tars of bounded size; use as a context manager."""

    def __init__(
        self, folder: Path, *, most: int, done: Callable[[str, Path], None]
    ) -> None:
        """Write below a local folder.

        Args:
            folder: Where tars lie in the making.
            most: Bytes of a tar, but for its end; one sample at least.
            done: Takes the name of a finished tar, and the tar.
        """
        self._path, self._most, self._done = folder / "part.tar", most, done
        self._tar: tarfile.TarFile | None = None
        self._size = 0
        self.files = 0

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """End the last tar, unless something went wrong."""
        if kind is None:
            if not self.files and self._tar is None:
                self._begin()
            self._end()
        elif self._tar is not None:
            self._tar.close()

    def add(self, stem: str, files: Mapping[str, bytes]) -> None:
        """Append a sample.

        Args:
            stem: Its name, without a dot behind the last slash.
            files: By suffix, without the first dot.
        """
        members = [_member(f"{stem}.{suffix}", data) for suffix, data in files.items()]
        size = sum(_size(member) for member in members)
        if self._size and self._size + size > self._most:
            self._end()
        tar = self._tar or self._begin()
        for member, data in zip(members, files.values(), strict=True):
            tar.addfile(member, io.BytesIO(data))
        self._size += size

    def _begin(self) -> tarfile.TarFile:
        self._size = 0
        self._tar = tarfile.open(self._path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 - it lives on
        return self._tar

    def _end(self) -> None:
        if self._tar is None:
            return
        self._tar.close()
        self._tar = None
        self._done(f"shard-{self.files:06d}.tar", self._path)
        self.files += 1
        self._size = 0


def _member(name: str, data: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = _MODE
    return member


def _size(member: tarfile.TarInfo) -> int:
    header = len(member.tobuf(tarfile.PAX_FORMAT))
    return header + -(-member.size // _BLOCK) * _BLOCK
