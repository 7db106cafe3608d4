"""From a finished local file to an object of the run that exists once."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.errors import ItemError, StoreError
from jobs.ledger import Output
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.disk import Object
    from jobs.storage import Store

SCRATCH = ".scratch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An object of the run, whoever created it."""

    output: Output

    other: bytes | None = None
    """Its bytes, where they are another attempt's and not the ones given."""


@contextmanager
def scratch_file(store: Store, run: str) -> Iterator[Path]:
    """A path for a file in the making, gone after the block.

    Beside a local run folder it lies in the folder itself, so that it can be
    given its final name without a copy.
    """
    beside = store.scratch(join(run, SCRATCH))
    with tempfile.TemporaryDirectory(prefix="atrous-", dir=beside) as folder:
        yield Path(folder, "output")


def store_file(store: Store, run: str, name: str, path: Path) -> Stored:
    """Create an object of the run from a local file, which is consumed.

    Where another attempt was first, its object stands and is described.

    Raises:
        StoreError: The store does not answer, or took the object away again.
    """
    size, sha256 = measure(path)
    uri = join(run, name)
    made = store.create_from(uri, path, sha256=sha256)
    if made is not None:
        return Stored(output=Output(name=name, size=size, sha256=sha256, etag=made.etag))
    try:
        return _adopt(store, run, name, sha256)
    except ItemError as error:
        raise StoreError(f"{uri} was there and cannot be read now: {error}") from error


def replace_file(store: Store, run: str, old: Output, path: Path) -> Stored:
    """Put a local file, which is consumed, in the place of an object of the run.

    Where that is not the old object any more, another attempt was first, and what
    stands is described.

    Raises:
        StoreError: The store does not answer, or the object is gone.
    """
    size, sha256 = measure(path)
    uri = join(run, old.name)
    try:
        stands = store.stat(uri)
        if stands.etag != old.etag and _sha256(store, stands) != old.sha256:
            return _adopt(store, run, old.name, sha256)
        made = store.replace_from(uri, path, match=stands.etag)
        if made is None:
            return _adopt(store, run, old.name, sha256)
    except ItemError as error:
        raise StoreError(f"{uri} cannot be replaced now: {error}") from error
    output = Output(name=old.name, size=size, sha256=sha256, etag=made.etag)
    return Stored(output=output)


def describe(store: Store, run: str, name: str) -> tuple[Output, bytes]:
    """An object of the run as it stands, and its bytes.

    Raises:
        ItemError: It is not there, or changes at this moment.
        StoreError: The store does not answer.
    """
    uri = join(run, name)
    stands = store.stat(uri)
    data = store.read(uri, etag=stands.etag)
    sha256 = hashlib.sha256(data).hexdigest()
    return Output(name=name, size=len(data), sha256=sha256, etag=stands.etag), data


def _sha256(store: Store, stands: Object) -> str:
    return hashlib.sha256(store.read(stands.uri, etag=stands.etag)).hexdigest()


def _adopt(store: Store, run: str, name: str, sha256: str) -> Stored:
    stands = store.stat(join(run, name))
    if stands.sha256 == sha256:
        output = Output(name=name, size=stands.size, sha256=sha256, etag=stands.etag)
        return Stored(output=output)
    output, data = describe(store, run, name)
    return Stored(output=output, other=None if output.sha256 == sha256 else data)


def measure(path: Path) -> tuple[int, str]:
    """Bytes of a local file, and their SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return path.stat().st_size, digest.hexdigest()
