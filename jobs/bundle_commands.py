"""What the bundle commands do: make one of a checkpoint, show, check and export it.

Each gives the object that ``--json`` prints; ``jobs.bundle_text`` says it to people.
"""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deeplab.bundle import count_parameters, header_text
from deeplab.choices import changed_choices, parse_choices
from deeplab.classes import read_classes
from jobs.bundle_file import locate, open_bundle
from jobs.disk import create_file_from
from jobs.errors import InputError
from jobs.storage import S3, Access, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deeplab.bundle import Bundle
    from deeplab.foreign.importing import ImportOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """What a user asked to import; None where nothing was asked."""

    checkpoint: str
    out: str
    origin: str
    classes: str | None
    """A named set, or a text file."""

    output_stride: int | None
    rates: tuple[int, ...] | None
    choices: tuple[str, ...]
    """``FIELD=VALUE`` each."""

    untrained_head: bool
    bands: tuple[str, ...] | None
    normalise: tuple[tuple[float, ...], tuple[float, ...]] | None
    tile: int | None
    overlap: int | None
    dtype: Literal["float32", "float16"]

    def __post_init__(self) -> None:
        """Check what goes together."""
        if self.untrained_head and self.classes is None:
            raise InputError(
                "--untrained-head needs --classes, which says how many there are"
            )


def import_bundle(asked: Import) -> dict[str, Any]:
    """Make a bundle of another project's checkpoint; nothing is overwritten.

    Raises:
        InputError: A file or an option is wrong, or the bundle is there already.
    """
    source, target = _local(asked.checkpoint), Path(_local(asked.out))
    _check_free(target)
    with _input_errors():
        options = _options(asked)
        with _folder_beside(target) as folder:
            from deeplab.foreign.importing import import_checkpoint

            written = Path(folder, "bundle.safetensors")
            report = import_checkpoint(source, written, options)
            if not create_file_from(target, written):
                _check_free(target)
    return {
        **_header(report.bundle, str(target)),
        "parameters": count_parameters(target),
        "bytes": target.stat().st_size,
        "tensors": report.tensors,
        "unused": report.unused,
        "untrained": report.untrained,
    }


def show_bundle(location: str, access: Access) -> dict[str, Any]:
    """A bundle's header, and what its file tells beside it; no tensor is read.

    Raises:
        InputError: There is no such file, or it is no bundle.
    """
    with open_bundle(location, access) as (path, bundle):
        return {
            **_header(bundle, locate(location)),
            "parameters": count_parameters(path),
            "bytes": path.stat().st_size,
        }


def verify_bundle(location: str, access: Access) -> dict[str, Any]:
    """Check all that there is to check of a bundle.

    Returns:
        ``differs`` says what is wrong; None where nothing is.

    Raises:
        InputError: There is no such file, or it is no bundle.
    """
    with open_bundle(location, access) as (path, bundle):
        from deeplab.verify import DifferenceError, check_bundle

        found: dict[str, Any] = {"bundle": locate(location), "digest": bundle.digest}
        try:
            checked = check_bundle(path)
        except DifferenceError as error:
            text = str(error).replace(str(path), found["bundle"])
            return {**found, "differs": text}
        return {
            **found,
            "differs": None,
            "tensors": checked.tensors,
            "classes": checked.classes,
            "tile": checked.tile,
            "notes": checked.notes,
        }


def export_bundle(location: str, out: str, access: Access, *, batch: int) -> dict[str, Any]:
    """Write a bundle's network for another runtime; nothing is overwritten.

    Raises:
        InputError: A file or an option is wrong, or ``out`` is there already.
    """
    target = Path(_local(out))
    _check_free(target)
    with _input_errors(), open_bundle(location, access) as (path, _):
        from deeplab.export import export
        from deeplab.weights import load_model

        model, bundle = load_model(path)
        with _folder_beside(target) as folder:
            written = Path(folder, target.name)
            error = export(model, bundle, written, batch=batch)
            if not create_file_from(target, written):
                _check_free(target)
    return {
        "bundle": locate(location),
        "file": str(target),
        "bytes": target.stat().st_size,
        "input": [batch, len(bundle.bands), bundle.tile, bundle.tile],
        "output": [batch, len(bundle.classes), bundle.tile, bundle.tile],
        "relative_error": error,
    }


def _options(asked: Import) -> ImportOptions:
    # What is wrong with a text is said before torch takes its seconds to load.
    classes = None if asked.classes is None else read_classes(asked.classes)
    choices = parse_choices(asked.choices)
    from deeplab.foreign.importing import ImportOptions

    return ImportOptions(
        origin=asked.origin,
        output_stride=asked.output_stride,
        atrous_rates=asked.rates,
        choices=choices,
        classes=classes,
        untrained_head=asked.untrained_head,
        bands=asked.bands,
        normalisation=asked.normalise,
        tile=asked.tile,
        overlap=asked.overlap,
        dtype=asked.dtype,
    )


def _header(bundle: Bundle, location: str) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(header_text(bundle))
    network = bundle.network
    return {
        "bundle": location,
        **header,
        "rates": network.rates,
        "choices": changed_choices(network),
    }


def _local(location: str) -> str:
    if location.startswith(S3):
        raise InputError(
            f"this command needs local files, got {location}; copy it from or to S3"
        )
    return resolve(location)


def _folder_beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A place to write a file, which then gets its name in one step."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent)
    except OSError as error:
        raise InputError(
            f"{target} cannot be written ({error.strerror}); check its folder"
        ) from error


def _check_free(target: Path) -> None:
    if target.exists():
        raise InputError(f"{target} is there already; remove it, or choose another name")


@contextmanager
def _input_errors() -> Iterator[None]:
    """Say in one line what a user can change."""
    try:
        yield
    except ValueError as error:
        raise InputError(" ".join(str(error).split())) from error
    except OSError as error:
        place = error.filename or "a file"
        raise InputError(f"{place} cannot be used: {error.strerror or error}") from error
