"""A finished object as a file that Parquet is read from, a part at a time."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.errors import RunError
from jobs.storage import S3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.storage import Object, Store


@contextlib.contextmanager
def open_object(
    store: Store, uri: str, *, size: int | None = None
) -> Iterator[Path | pa.NativeFile]:
    """Open an object, of which only those parts are fetched that are read.

    Args:
        store: Where it lies.
        uri: Its location.
        size: Bytes that it must have.

    Raises:
        ItemError: It is not there.
        RunError: It has another size.
        StoreError: The store does not answer.
    """
    held = store.stat(uri)
    if size is not None and held.size != size:
        raise RunError(
            f"{uri} has {held.size} bytes, its record says {size}; see atrous verify"
        )
    if not uri.startswith(S3):
        yield Path(uri)
        return
    with pa.PythonFile(_Parts(store, held), mode="r") as file:
        yield file


class _Parts(io.RawIOBase):
    """An object of a bucket, each read a request of its own."""

    def __init__(self, store: Store, held: Object) -> None:
        super().__init__()
        self._store, self._held = store, held
        self._size, self._place = held.size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}
        self._place = starts[whence] + offset
        return self._place

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._place)
        wanted = left if size < 0 else min(size, left)
        if not wanted:
            return b""
        held = self._held
        data = self._store.read_part(held.uri, self._place, wanted, etag=held.etag)
        self._place += len(data)
        return data
