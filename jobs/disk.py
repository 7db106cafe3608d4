"""Files that appear whole, and only once.

A temporary file beside the final name, fsync, ``os.link`` (which refuses a name
that is taken), and fsync of the folder: after that the file survives a crash,
and of two writers one wins.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One object as the store lists it."""

    uri: str
    size: int
    etag: str


def find_files(prefix: str) -> Iterator[Object]:
    """All files at or below a path, in no order."""
    root = Path(prefix)
    if root.is_file():
        yield stat_file(root)
        return
    for folder, _, names in os.walk(root, onerror=_raise):
        for name in names:
            path = Path(folder, name)
            # What is gone since it was listed was never there.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file():
                    yield stat_file(path)


def _raise(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def stat_file(path: Path) -> Object:
    """Size and time of a file, as an object of a store."""
    status = path.stat()
    # A local file has no ETag; its time and size change whenever its bytes do.
    etag = f"{status.st_mtime_ns:x}-{status.st_size:x}"
    return Object(uri=str(path), size=status.st_size, etag=etag)


def write_beside(path: Path, data: bytes) -> Path:
    """Write a temporary file in a path's folder, safe on disk."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
    except OSError:
        temporary.unlink()
        raise
    return temporary


def create_file(path: Path, data: bytes) -> bool:
    """Write a file unless it exists; whether this call did."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return _link(write_beside(path, data), path)


def create_file_from(path: Path, source: Path) -> bool:
    """Like ``create_file``, with a finished file, which is consumed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.chmod(0o644)
    return _link(source, path)


def _link(temporary: Path, path: Path) -> bool:
    """Give a finished file its name, unless the name is taken."""
    try:
        path.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return create_file(path, temporary.read_bytes())
    finally:
        temporary.unlink()
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return True
