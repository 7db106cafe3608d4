"""From a finished local file to an object of the run that exists once."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.ledger import Output
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.storage import Store

SCRATCH = ".scratch"


@contextmanager
def scratch_file(store: Store, run: str) -> Iterator[Path]:
    """A path for a file in the making, gone after the block.

    Beside a local run folder it lies in the folder itself, so that it can be
    given its final name without a copy.
    """
    beside = store.scratch(join(run, SCRATCH))
    with tempfile.TemporaryDirectory(prefix="atrous-", dir=beside) as folder:
        yield Path(folder, "output")


def store_file(store: Store, run: str, name: str, path: Path) -> Output:
    """Create an object of the run from a local file, which is consumed.

    Where another attempt was first, its object stands and is described.
    """
    size, sha256 = _measure(path)
    uri = join(run, name)
    if not store.create_from(uri, path):
        data = store.read(uri)
        size, sha256 = len(data), hashlib.sha256(data).hexdigest()
    return Output(name=name, size=size, sha256=sha256)


def _measure(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return path.stat().st_size, digest.hexdigest()
