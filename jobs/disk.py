"""Files that appear whole, and only once.

A temporary file beside the final name, fsync, ``os.link`` (which refuses a name
that is taken), and fsync of the folder: after that the file survives a crash,
and of two writers one wins. A file system without hard links gives that promise
to a single driver alone: a lock that one machine heeds, a look, and a rename.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.sorting import Sorter

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_NOT_FOUND: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_NAME: Final = {errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
"""Errors of a name that leads to no file."""

_HOPELESS: Final = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.EINVAL,
}
"""Errors that another try does not mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """One object as the store lists it. Equal ETags mean equal bytes."""

    uri: str
    size: int
    etag: str

    sha256: str | None = field(default=None, compare=False)
    """Of its bytes, where it was written by us and asked for alone."""

    modified: datetime | None = field(default=None, compare=False)
    """When it was last written, by the store's clock."""


def changed(uri: str) -> ItemError:
    """The dead letter of an object that is not what was planned."""
    return ItemError("input_changed", f"{uri} is not the object that was planned")


class NoLinksError(OSError):
    """The file system has no hard links, which creating once relies on."""


def find_files(prefix: str) -> Iterator[Object]:
    """All files at or below a path, in the order of their locations."""
    root = Path(prefix)
    if root.is_file():
        yield stat_file(root)
        return
    waiting = [_names(str(root))]
    while waiting:
        path = next(waiting[-1], None)
        if path is None:
            waiting.pop()
        elif path.endswith("/"):
            waiting.append(_names(path[:-1]))
        else:
            # What is gone since it was listed was never there.
            with contextlib.suppress(FileNotFoundError):
                yield stat_file(Path(path))


def _names(folder: str) -> Iterator[str]:
    """Files and folders of a folder, in order; a folder's name ends in a slash.

    With it they come as the locations below them do: ``a.jpg`` before ``a/b.jpg``.
    """
    with Sorter() as found:
        try:
            with os.scandir(folder) as entries:
                for one in entries:
                    if one.is_dir(follow_symlinks=False):
                        found.add(f"{one.path}/")
                    elif Path(one.path).is_file() if one.is_symlink() else one.is_file():
                        found.add(one.path)
        except (FileNotFoundError, NotADirectoryError):
            return
        for (path,) in found:
            yield path


def stat_file(path: Path) -> Object:
    """Size and time of a file, as an object of a store."""
    return _describe(path, path.stat())


def _describe(path: Path, status: os.stat_result) -> Object:
    # A local file has no ETag; its time and size change whenever its bytes do.
    return Object(
        uri=str(path),
        size=status.st_size,
        etag=f"{status.st_mtime_ns:x}-{status.st_size:x}",
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
    )


def write_beside(path: Path, data: bytes) -> Path:
    """Write a temporary file in a path's folder, safe on disk."""
    descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    temporary = Path(name)
    with contextlib.ExitStack() as unless_whole:
        unless_whole.callback(temporary.unlink)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        unless_whole.pop_all()
    return temporary


def create_file(path: Path, data: bytes, *, linked: bool = True) -> bool:
    """Write a file unless it exists; whether this call did."""
    make_folder(path.parent)
    return _name(write_beside(path, data), path, linked=linked)


def create_file_from(path: Path, source: Path, *, linked: bool = True) -> bool:
    """Like ``create_file``, with a finished file, which is consumed."""
    make_folder(path.parent)
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.chmod(0o644)
    return _name(source, path, linked=linked)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, all of which survive a crash."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _name(temporary: Path, path: Path, *, linked: bool) -> bool:
    """Give a finished file its name, unless the name is taken."""
    try:
        if linked:
            _link(temporary, path)
        else:
            _rename(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return create_file(path, temporary.read_bytes(), linked=linked)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def _link(temporary: Path, path: Path) -> None:
    try:
        path.hardlink_to(temporary)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise NoLinksError(error.errno, os.strerror(error.errno), str(path)) from error
        raise


def _rename(temporary: Path, path: Path) -> None:
    with _locked(path.parent):
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.rename(path)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Be alone in a folder among those who ask; where locks do not work, as if."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Disk:
    """Reads, lists and writes local files. Safe to use from many threads."""

    name = "the file system"

    def __init__(self, *, linked: bool) -> None:
        """Create files with hard links, or with the lesser promise of renaming."""
        self._linked = linked

    def iterate(self, prefix: str) -> Iterator[Object]:
        """The files at or below a path, in the order of their locations."""
        with _listing(prefix):
            yield from find_files(prefix)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below a path."""
        gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)
        with _listing(prefix), gone, os.scandir(prefix) as found:
            return sorted(one.name for one in found if one.is_dir())
        return []

    def stat(self, uri: str) -> Object:
        """Size and time of a file."""
        with _reading(uri):
            return stat_file(Path(uri))

    def read(self, uri: str, etag: str | None) -> bytes:
        """All bytes of a file, which is ``etag`` before and after."""
        path = Path(uri)
        with _reading(uri), _open(path) as file:
            before = _describe(path, os.fstat(file.fileno()))
            data = file.read()
            after = _describe(path, os.fstat(file.fileno()))
        if etag is not None and not before.etag == after.etag == etag:
            raise changed(uri)
        return data

    def read_head(self, uri: str, size: int) -> bytes:
        """The first bytes of a file."""
        with _reading(uri), _open(Path(uri)) as file:
            return file.read(size)

    def read_part(self, uri: str, start: int, size: int, etag: str | None) -> bytes:
        """Some bytes of a file, which is ``etag`` before and after."""
        path = Path(uri)
        with _reading(uri), _open(path) as file:
            before = _describe(path, os.fstat(file.fileno()))
            file.seek(start)
            data = file.read(size)
            after = _describe(path, os.fstat(file.fileno()))
        if etag is not None and not before.etag == after.etag == etag:
            raise changed(uri)
        return data

    def create(self, uri: str, data: bytes) -> bool:
        """Write a file unless it exists; whether this call did."""
        with _writing(uri):
            return create_file(Path(uri), data, linked=self._linked)

    def create_from(self, uri: str, path: Path, sha256: str | None) -> Object | None:
        """Give a finished file its name, unless the name is another's."""
        target = Path(uri)
        with _writing(uri):
            size = path.stat().st_size
            sha256 = sha256 or _sha256(path)
            if not create_file_from(target, path, linked=self._linked):
                held = stat_file(target)
                if held.size != size or _sha256(target) != sha256:
                    return None
            return replace(stat_file(target), sha256=sha256)

    def replace(self, uri: str, data: bytes) -> None:
        """Write a file, whatever stands there."""
        path = Path(uri)
        with _writing(uri):
            make_folder(path.parent)
            write_beside(path, data).replace(path)
            _sync_folder(path.parent)

    def replace_from(self, uri: str, path: Path, match: str | None) -> Object | None:
        """Write a file in the place of the one with that ETag."""
        target = Path(uri)
        with _writing(uri):
            make_folder(target.parent)
            temporary = write_beside(target, path.read_bytes())
            try:
                with _locked(target.parent):
                    if match is not None and not _is(target, match):
                        return None
                    temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(target.parent)
            return replace(stat_file(target), sha256=_sha256(target))

    def delete(self, uri: str) -> None:
        """Remove a file; not an error when it is gone already."""
        with _writing(uri):
            Path(uri).unlink(missing_ok=True)


def _open(path: Path) -> BinaryIO:
    """Open a file that has an end: no pipe, no socket and no device.

    Raises:
        ItemError: It is none.
    """
    if path.exists() and not path.is_file():
        raise ItemError("not_found", f"{path} is no regular file")
    # Were it a pipe by now, opening it must not wait for somebody who writes.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")


def _is(path: Path, etag: str) -> bool:
    try:
        return stat_file(path).etag == etag
    except FileNotFoundError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _listing(prefix: str) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"{prefix} may not be listed ({error}); check its permissions"
        ) from error
    except OSError as error:
        said = f"{prefix} cannot be listed: {error}"
        if error.errno in _HOPELESS:
            raise InputError(f"{said}; check the path") from error
        raise StoreError(f"{said}; check the disk") from error


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[None]:
    try:
        yield
    except _NOT_FOUND as error:
        raise ItemError("not_found", f"{uri} does not exist") from error
    except PermissionError as error:
        raise ItemError("forbidden", f"{uri} may not be read") from error
    except OSError as error:
        if error.errno in _NO_NAME:
            raise ItemError("not_found", f"{uri} is no file: {error.strerror}") from error
        raise StoreError(f"{uri} cannot be read: {error}; check the disk") from error


@contextlib.contextmanager
def _writing(uri: str) -> Iterator[None]:
    try:
        yield
    except NoLinksError as error:
        raise RunError(
            f"{uri} lies on a file system without hard links, which creating a file "
            'once relies on; choose another run folder, or set commit = "single-driver" '
            "(--config commit=single-driver) and start no second driver"
        ) from error
    except OSError as error:
        if error.errno in _HOPELESS:
            raise RunError(f"{uri} cannot be written: {error}") from error
        raise StoreError(f"{uri} cannot be written: {error}; check the disk") from error
