"""Bundle files, wherever they lie: local, on S3, or in the package."""

from __future__ import annotations

import importlib.resources
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deeplab.bundle import Bundle, read_bundle, read_tensors
from jobs.errors import InputError, ItemError
from jobs.storage import Access, open_store, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

DEMO_BUNDLE: Final = "demo"
"""In place of a path: the small bundle that ships with the package."""


def load_bundle(location: str, access: Access) -> tuple[Bundle, bytes]:
    """A bundle's header and the file's bytes.

    Raises:
        InputError: There is no such file, or it is no bundle.
    """
    with open_bundle(location, access) as (path, bundle):
        try:
            read_tensors(path, bundle)
        except ValueError as error:
            text = str(error).replace(str(path), locate(location))
            raise InputError(f"no bundle: {text}") from error
        return bundle, path.read_bytes()


@contextmanager
def open_bundle(location: str, access: Access) -> Iterator[tuple[Path, Bundle]]:
    """A bundle as a local file, for as long as the block lasts, and its header.

    Raises:
        InputError: There is no such file, or its header is no bundle's.
    """
    uri = locate(location)
    try:
        data = open_store(access).read(uri)
    except ItemError as error:
        raise InputError(f"bundle {location}: {error.message}; check the path") from error
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        # A key may be called like anything, and nothing that is a file name.
        path = Path(folder, "bundle.safetensors")
        path.write_bytes(data)
        del data
        try:
            bundle = read_bundle(path)
        except ValueError as error:
            text = str(error).replace(str(path), uri)
            raise InputError(f"no bundle: {text}") from error
        yield path, bundle


def locate(location: str) -> str:
    """Where a bundle lies that a user named."""
    return str(demo_bundle_path()) if location == DEMO_BUNDLE else resolve(location)


def demo_bundle_path() -> Path:
    """The small bundle that ships with the package."""
    return Path(str(importlib.resources.files("jobs"))) / "demo.safetensors"
