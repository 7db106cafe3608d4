"""Where an export goes: one file or a folder of files, whole or not at all.

A local file or folder is made beside its place and then gets its name in one step.
In a bucket a folder has no such step: its files are created as they come, and
``.atrous-export.json``, which is there from the beginning, says at the end that it is
whole. ``--overwrite`` replaces only folders that hold such a file, so that nobody's own
are lost to a slip of the hand.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError
from jobs.storage import S3, join

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from jobs.storage import Store

MARK: Final = ".atrous-export.json"

_WRITERS: Final = 16
_WAITING: Final = 64
"""Objects on their way to a bucket: so many are held in memory at most."""


def check_free(store: Store, out: str, *, overwrite: bool) -> None:
    """Make sure that a file may be written.

    Raises:
        InputError: It is there already, or is a folder.
    """
    if not overwrite and store.exists(out):
        raise InputError(
            f"{out} is there already; give --overwrite, or choose another name"
        )
    if not out.startswith(S3) and Path(out).is_dir():
        raise InputError(f"{out} is a folder; give the name of a file")


@contextlib.contextmanager
def folder_beside(store: Store, out: str) -> Iterator[Path]:
    """A place to write a file or a folder, which then gets its name in one step.

    Raises:
        InputError: It cannot be written.
    """
    folder = out.rsplit("/", 1)[0] or "/"
    try:
        beside = store.scratch(folder)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=beside) as scratch:
            yield Path(scratch)
    except OSError as error:
        raise InputError(
            f"{out} cannot be written ({error.strerror or error}); check its folder"
        ) from error


def place_file(store: Store, out: str, path: Path, *, overwrite: bool) -> int:
    """Give a finished file, which is consumed, its name; its bytes.

    Raises:
        InputError: Another one is there.
    """
    size = path.stat().st_size
    if overwrite:
        store.replace_from(out, path, match=None)
    elif store.create_from(out, path) is None:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        check_free(store, out, overwrite=False)
    return size


class Folder:
    """A folder in the making."""

    def __init__(self, store: Store, out: str, scratch: Path) -> None:
        """Write to ``out``, or below ``scratch`` where that is local."""
        self._store, self._out = store, out
        self._remote = out.startswith(S3)
        self.scratch = scratch
        """A local folder for files in the making."""

        self._root = scratch / "folder"
        self._made: set[Path] = set()
        self._waiting: deque[Future[object]] = deque()
        self._pool = ThreadPoolExecutor(_WRITERS) if self._remote else None
        self.files = self.size = 0

    def add(self, name: str, data: bytes) -> None:
        """Write a file below the folder.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        self.files += 1
        self.size += len(data)
        if self._pool is not None:
            uri = join(self._out, name)
            self._waiting.append(self._pool.submit(self._store.create, uri, data))
            if len(self._waiting) > _WAITING:
                self._waiting.popleft().result()
            return
        self._path(name).write_bytes(data)

    def add_file(self, name: str, path: Path) -> None:
        """Write a file below the folder, with that of a local one, which is consumed.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        self.files += 1
        self.size += path.stat().st_size
        if self._remote:
            self._store.create_from(join(self._out, name), path)
        else:
            path.rename(self._path(name))

    def finish(self, about: dict[str, Any], *, overwrite: bool) -> None:
        """Say that it is whole, and give it its name.

        Raises:
            InputError: Another one is there by now.
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        self._drain()
        text = _mark(finished=True, **about)
        if self._remote:
            self._store.replace(join(self._out, MARK), text)
            return
        self._path(MARK).write_bytes(text)
        target = Path(self._out)
        if overwrite and target.exists():
            # The old one goes away with the folder of temporary files.
            target.rename(self._root.with_name("old"))
        try:
            self._root.rename(target)
        except OSError as error:
            check_folder(self._store, self._out, overwrite=False)
            raise InputError(f"{self._out} cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Wait for what is on its way; errors are told by ``finish`` alone."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _drain(self) -> None:
        while self._waiting:
            self._waiting.popleft().result()

    def _path(self, name: str) -> Path:
        path = self._root / name
        if path.parent not in self._made:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._made.add(path.parent)
        return path


def check_folder(store: Store, out: str, *, overwrite: bool) -> None:
    """Make sure that a folder may be written.

    Raises:
        InputError: Something is there already; with ``overwrite``, something else
            than an export.
    """
    found = next(iter(store.iterate(out)), None)
    if found is None:
        return
    if found.uri == out.rstrip("/"):
        raise InputError(f"{out} is a file; give the name of a folder")
    if not overwrite:
        raise InputError(
            f"{out} is there already; give --overwrite, or choose another folder"
        )
    if not store.exists(join(out, MARK)):
        raise InputError(
            f"{out} holds something that is no export (no {MARK}), such as {found.uri}; "
            "choose another folder, or remove it yourself"
        )


@contextlib.contextmanager
def open_folder(store: Store, out: str, *, overwrite: bool) -> Iterator[Folder]:
    """Write a folder; it appears when ``finish`` is called.

    Raises:
        InputError: It may not be written there.
        StoreError: The store does not answer.
    """
    check_folder(store, out, overwrite=overwrite)
    out = out.rstrip("/")
    if out.startswith(S3):
        _claim(store, out, overwrite=overwrite)
    with folder_beside(store, out) as scratch:
        folder = Folder(store, out, scratch)
        try:
            yield folder
        finally:
            folder.close()


def _claim(store: Store, out: str, *, overwrite: bool) -> None:
    """Begin an export in a bucket, after the old one is removed."""
    mark = join(out, MARK)
    if overwrite:
        for one in store.iterate(out):
            if one.uri != mark:
                store.delete(one.uri)
        store.delete(mark)
    if not store.create(mark, _mark(finished=False)):
        raise InputError(f"{out} is being written by somebody else; choose another folder")


def _mark(**about: object) -> bytes:
    return json.dumps(about, indent=1).encode()
