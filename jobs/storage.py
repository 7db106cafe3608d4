"""Objects in a local folder or an S3 bucket, behind one small face.

What counts is ``create``: an object appears whole or not at all, and the first
writer wins. ``jobs.s3`` and ``jobs.disk`` say how. A location is an absolute local
path or ``s3://bucket/key``.

A read raises an ``ItemError`` for what is certain about the object: it is gone,
forbidden, another one, cut short or damaged. Whatever may pass is a ``StoreError``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fsspec.utils import glob_translate

from jobs.access import S3, Access, join, resolve
from jobs.disk import Disk, Object, changed
from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.patience import Patience
from jobs.s3 import Buckets, Upload

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "S3",
    "Access",
    "Object",
    "Patience",
    "Store",
    "Upload",
    "changed",
    "join",
    "open_store",
    "resolve",
]

_MAGIC: Final = re.compile(r"[*?[]")
_PARTIAL: Final = 206
_PROBE: Final = b"a store that keeps what it is given"


@functools.lru_cache(maxsize=4)
def open_store(access: Access) -> Store:
    """The store of this process for one way of access."""
    return Store(access)


class Store:
    """Reads, lists and creates objects. Safe to use from many threads."""

    def __init__(self, access: Access, patience: Patience | None = None) -> None:
        """Remember how to reach S3; nothing is contacted yet."""
        self._access = access
        self._disk = Disk(linked=access.commit == "conditional")
        self._buckets = Buckets(access, patience or Patience())

    def _of(self, uri: str) -> Disk | Buckets:
        return self._buckets if uri.startswith(S3) else self._disk

    # What is there

    def find(self, prefix: str) -> list[Object]:
        """All objects at or below a location, in URI order.

        Raises:
            InputError: The location may not be listed.
            StoreError: The store does not answer.
        """
        return sorted(self.iterate(prefix), key=lambda one: one.uri)

    def iterate(self, prefix: str) -> Iterator[Object]:
        """The objects at or below a location, one page in memory.

        Those of a bucket come in the order of their keys, files sorted by folder.

        Raises:
            InputError: The location may not be listed.
            StoreError: The store does not answer.
        """
        return self._of(prefix).iterate(prefix)

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly below a location, sorted.

        Raises:
            InputError: The location may not be listed.
            StoreError: The store does not answer.
        """
        return self._of(prefix).folders(prefix)

    def require(self, location: str) -> None:
        """Refuse a local path that is not there, before anything costly starts.

        Raises:
            InputError: It does not exist.
        """
        remote = location.startswith(S3)
        if not (remote or _MAGIC.search(location) or os.path.exists(location)):  # noqa: PTH110 - an odd name is none
            raise InputError(f"nothing at {location}; check the path")

    def match(self, location: str) -> tuple[str, list[Object]]:
        """The objects that a path, prefix or glob names.

        Returns:
            The folder that the objects lie below, and the objects in URI order.
        """
        if not _MAGIC.search(location) or self._is_there(location):
            found = self._find_or_stat(location)
            alone = len(found) == 1 and found[0].uri == location
            return (location.rsplit("/", 1)[0] if alone else location), found
        root = _MAGIC.split(location)[0].rsplit("/", 1)[0]
        try:
            wanted = re.compile(glob_translate(location))
        except ValueError as error:
            raise InputError(f"glob {location} is wrong: {error}") from error
        return root, [found for found in self.find(root) if wanted.match(found.uri)]

    def _find_or_stat(self, location: str) -> list[Object]:
        try:
            return self.find(location)
        except InputError:
            # Who may not list may still read what he can name.
            with contextlib.suppress(ItemError, StoreError):
                if location.startswith(S3):
                    return [self.stat(location)]
            raise

    def _is_there(self, location: str) -> bool:
        """Whether a location that looks like a glob is the name of something."""
        if not location.startswith(S3):
            return Path(location).exists()
        try:
            return self.exists(location)
        except ItemError:
            return False

    # Reading

    def stat(self, uri: str) -> Object:
        """Size, ETag and, where we wrote it to a bucket, SHA-256 of one object.

        Raises:
            ItemError: ``not_found`` or ``forbidden``.
            StoreError: The store does not answer.
        """
        return self._of(uri).stat(uri)

    def exists(self, uri: str) -> bool:
        """Whether an object is there."""
        try:
            self.stat(uri)
        except ItemError as error:
            if error.code == "not_found":
                return False
            raise
        return True

    def read(self, uri: str, *, etag: str | None = None) -> bytes:
        """All bytes of one object.

        Args:
            uri: Location of the object.
            etag: What the object must still be.

        Raises:
            ItemError: ``not_found``, ``forbidden``, ``truncated``, ``corrupted``, or
                ``input_changed`` where the object is not ``etag`` any more.
            StoreError: The store does not answer.
        """
        return self._of(uri).read(uri, etag)

    def read_head(self, uri: str, size: int) -> bytes:
        """The first bytes of one object, at most ``size``.

        Raises:
            ItemError: As in ``read``.
            StoreError: The store does not answer.
        """
        return self._of(uri).read_head(uri, size)

    def read_part(self, uri: str, start: int, size: int, *, etag: str | None) -> bytes:
        """Some bytes of one object in a bucket, at most ``size``, at least one.

        Raises:
            ItemError: As in ``read``; ``unsupported`` where the store gives no parts.
            StoreError: The store does not answer.
        """
        status, data = self._buckets.read_range(uri, start, size)
        if status != _PARTIAL:
            raise ItemError("unsupported", f"{self._buckets.name} gives no part of {uri}")
        if etag is not None and self.stat(uri).etag != etag:
            raise changed(uri)
        return data

    # Writing

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object unless it exists; whole or not at all.

        Returns:
            Whether this call created it; False when somebody else had.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        return self._of(uri).create(uri, data)

    def create_from(
        self, uri: str, path: Path, *, sha256: str | None = None
    ) -> Object | None:
        """Like ``create``, with the bytes of a local file, which it consumes.

        Args:
            uri: Location of the object.
            path: The file.
            sha256: Of its bytes, where it is known already.

        Returns:
            The object, also where somebody else had created it with the same bytes;
            None where another one stands.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        try:
            return self._of(uri).create_from(uri, path, sha256)
        finally:
            path.unlink(missing_ok=True)

    def replace(self, uri: str, data: bytes) -> None:
        """Write a view that may be written again; whole or not at all.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        self._of(uri).replace(uri, data)

    def replace_from(self, uri: str, path: Path, *, match: str | None) -> Object | None:
        """Like ``replace``, with the bytes of a local file, which it consumes.

        Args:
            uri: Location of the object.
            path: The file.
            match: ETag of the object that may be replaced; None for any, or none.

        Returns:
            The new object; None, with nothing written, where the object is gone or
            not ``match`` any more.

        Raises:
            RunError: It may not be written.
            StoreError: The store does not answer.
        """
        try:
            return self._of(uri).replace_from(uri, path, match)
        finally:
            path.unlink(missing_ok=True)

    def delete(self, uri: str) -> None:
        """Remove an object of ours; not an error when it is gone already.

        Raises:
            RunError: It may not be removed.
            StoreError: The store does not answer.
        """
        self._of(uri).delete(uri)

    def uploads(self, prefix: str) -> list[Upload]:
        """What was begun below a location of a bucket and never completed.

        Raises:
            InputError: They may not be listed.
            StoreError: The store does not answer.
        """
        return self._buckets.uploads(prefix) if prefix.startswith(S3) else []

    def abort(self, upload: Upload) -> None:
        """Give up an upload, so that its parts are not paid for any more.

        Raises:
            RunError: It may not be given up.
            StoreError: The store does not answer.
        """
        self._buckets.abort(upload)

    # Before a run

    def probe(self, run: str) -> None:
        """Make sure that a run's folder keeps the promises that a run relies on.

        Raises:
            RunError: It does not, or it may not be written.
            StoreError: The store does not answer.
        """
        uri = join(run, "_probe", uuid.uuid4().hex)
        try:
            self._probe_creating(uri)
            if uri.startswith(S3):
                self._probe_reading(uri)
        finally:
            # Whoever may not delete may still write a run.
            with contextlib.suppress(RunError, StoreError):
                self.delete(uri)
        self.sweep(join(run, "_probe"))

    def _probe_creating(self, uri: str) -> None:
        self.create(uri, _PROBE)
        if self._access.commit == "conditional" and self.create(uri, _PROBE[::-1]):
            raise RunError(
                f"{self._of(uri).name} overwrote {uri} although it was asked to create "
                "it (If-None-Match), so two drivers could spoil a run; use another "
                "store, or give --config commit=single-driver and start no second driver"
            )

    def _probe_reading(self, uri: str) -> None:
        server, size = self._buckets.name, len(_PROBE)
        status, data = self._buckets.read_range(uri, 2, size)
        if status != _PARTIAL or data != _PROBE[2:]:
            raise RunError(
                f"{server} answers {status} with {len(data)} bytes where it is asked for "
                f"bytes 2 to {size - 1} of {uri}, and 206 with {size - 2} is right; "
                "rasters cannot be read from it, use another store"
            )
        try:
            self.stat(f"{uri}-missing")
        except ItemError as error:
            # Without the right to list, S3 does not tell what is missing.
            if error.code in {"not_found", "forbidden"}:
                return
            raise
        raise RunError(f"{server} says that {uri}-missing exists; use another store")

    # Temporary files

    def scratch(self, folder: str) -> Path | None:
        """Where temporary files should lie to be linked into ``folder``.

        None means the system's temporary folder, for a store on the network.
        """
        if folder.startswith(S3):
            return None
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def sweep(self, folder: str) -> None:
        """Remove a folder of temporary files if nobody uses it any more."""
        if not folder.startswith(S3):
            with contextlib.suppress(OSError):
                Path(folder).rmdir()
