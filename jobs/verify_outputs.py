"""Objects that records name: are they there, and do they hold what the records say?"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deeplab.tiles import Window
from jobs.errors import ItemError, RunError
from jobs.ledger import bare, parse_record
from jobs.outputs.recount import read_signature, recount_masks, recount_raster
from jobs.storage import S3, join
from jobs.verify_objects import Held, short
from jobs.verify_report import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

    from jobs.ledger import Output, Record
    from jobs.outputs.recount import MaskRow, RasterCount
    from jobs.shards import Shard
    from jobs.storage import Store
    from jobs.verify_folder import Pass
    from jobs.verify_objects import Inventory
    from jobs.verify_rasters import Part, Raster
    from jobs.verify_report import Report

Told = tuple[str, object, object]
"""A difference: its kind, what was expected, and what was got."""

Inspect = Callable[[Path], Iterable[Told]]
"""Looks into a local copy of an object."""

Look = Callable[[], list[Difference]]
"""Reads an object, in any thread."""

NODATA: Final = 255
_IGNORED: Final = 254


class Outputs:
    """Holds objects against what records say of them."""

    def __init__(self, store: Store, inventory: Inventory, report: Report) -> None:
        """Look at a run's outputs, as the inventory lists them."""
        self._store, self._inventory, self._report = store, inventory, report

    def look(self, output: Output, inspect: Inspect) -> Iterator[Look]:
        """Hold an object against its listing; what is left to be read, if anything.

        Args:
            output: As a record names it.
            inspect: Looks inside, where every byte is asked for.
        """
        report = self._report
        report.objects += 1
        report.size += output.size
        held = self._inventory.find(output.name) or self._ask(output.name)
        if held is None:
            report.tell("missing", output.name, f"{output.size} bytes", "nothing")
        elif held.size != output.size:
            kind = "truncated" if held.size < output.size else "replaced"
            report.tell(kind, output.name, f"{output.size} bytes", held.size)
        elif report.deep or held.etag != short(output.etag):
            report.read += 1
            yield functools.partial(
                _read, self._store, report.run, output, inspect if report.deep else None
            )

    def is_there(self, name: str) -> bool:
        """Whether an object stands, whatever it holds."""
        return self._inventory.find(name) is not None or self._ask(name) is not None

    def _ask(self, name: str) -> Held | None:
        """An object that came, or was made visible, after the listing."""
        try:
            found = self._store.stat(join(self._report.run, name))
        except ItemError as error:
            if error.code == "not_found":
                return None
            raise
        return Held(size=found.size, etag=short(found.etag))


def _read(
    store: Store, run: str, output: Output, inspect: Inspect | None
) -> list[Difference]:
    """What is wrong with the bytes of an object."""
    name, found = output.name, []
    try:
        with _local(store, join(run, name)) as path:
            found = list(_inspect(path, output, inspect))
    except ItemError as error:
        kind = "missing" if error.code == "not_found" else "unreadable"
        found = [(kind, f"{output.size} bytes", error.message)]
    return [
        Difference(kind=kind, object=name, expected=str(expected), got=str(got))
        for kind, expected, got in found
    ]


def _inspect(path: Path, output: Output, inspect: Inspect | None) -> Iterator[Told]:
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != output.sha256:
        kind = "truncated" if size < output.size else "replaced"
        yield kind, f"SHA-256 {output.sha256}", sha256
    elif inspect is not None:
        try:
            yield from inspect(path)
        except ValueError as error:
            yield "unreadable", "a file of its kind", error


@contextlib.contextmanager
def _local(store: Store, uri: str) -> Iterator[Path]:
    """An object as a local file; one that is not local is held in memory once."""
    if not uri.startswith(S3):
        store.read_head(uri, 1)
        yield Path(uri)
        return
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, "object")
        path.write_bytes(store.read(uri))
        yield path


# Masks of images


def inspect_masks(shard: Shard, record: Record, one: Pass, path: Path) -> Iterator[Told]:
    """Count a shard's masks again."""
    expected_record = bare(record)
    try:
        signed = parse_record(path.name, read_signature(path))
    except RunError as error:
        raise ValueError(str(error)) from error
    if signed != expected_record:
        told = f"the record that it was signed with, {expected_record}"
        yield "wrong_record", told, signed
    dead = {letter.uri for letter in record.dead_letters}
    left = [(item.uri, item.key) for item in shard.items if item.uri not in dead]
    given, pixels, nodata = [], 0, 0
    for row in recount_masks(path):
        given.append((row.fields["uri"], row.fields["key"]))
        yield from _inspect_row(row, one)
        pixels += row.size
        nodata += int(row.counts[NODATA])
    if given != left:
        yield "wrong_count", f"rows of {len(left)} items: {left}", given
    expected = record.pixels_done, record.pixels_nodata
    if (pixels - nodata, nodata) != expected:
        yield (
            "wrong_count",
            "{} pixels done, {} nodata".format(*expected),
            (f"{pixels - nodata} and {nodata}"),
        )


def _inspect_row(row: MaskRow, one: Pass) -> Iterator[Told]:
    fields, key = row.fields, row.fields["key"]
    if row.size != fields["height"] * fields["width"]:
        sides = f"{fields['height']} x {fields['width']}"
        yield "wrong_count", f"{key} of {sides} px", f"{row.size} bytes"
    counted = row.counts[: one.classes].tolist()
    if fields["class_pixels"] != counted:
        yield "wrong_count", f"{key} with class_pixels {counted}", fields["class_pixels"]
    yield from inspect_values(row.counts, one, key)
    made_by = fields["mask_encoding"], fields["bundle_digest"]
    if made_by != ("raw", one.bundle):
        yield "wrong_record", f"{key} raw, by bundle {one.bundle}", made_by


def inspect_values(counts: NDArray[np.int64], one: Pass, where: object) -> Iterator[Told]:
    """Whether there are classes that the bundle does not know."""
    strange = int(counts[one.classes : _IGNORED].sum())
    if strange:
        yield "wrong_count", f"{where} of {one.classes} classes", f"{strange} px of others"


# Masks of rasters


def inspect_piece(part: Part, one: Pass, path: Path) -> Iterator[Told]:
    """Count a block's mask again."""
    core = part.core
    window = Window(row=0, col=0, height=core.height, width=core.width)
    found = recount_raster(path, [window])
    yield from inspect_layout(found, core.height, core.width)
    for counts in found.counts:
        yield from _inspect_block(counts, part, one)


def inspect_made(raster: Raster, one: Pass, name: str, path: Path) -> Iterator[Told]:
    """Look into one of the files that a raster was made into."""
    if name == raster.names.mask:
        yield from _inspect_raster(raster, one, path)
    elif name == raster.names.confidence:
        yield from _inspect_confidence(raster, path)
    elif name == raster.names.probabilities:
        yield from _inspect_probabilities(raster, path)


def _inspect_probabilities(raster: Raster, path: Path) -> Iterator[Told]:
    """Each pixel that has a class has probabilities, and no other."""
    parts = [*raster.parts.values()]
    found = recount_raster(path, (part.core for part in parts), data=True)
    yield from inspect_layout(found, raster.height, raster.width, bands=found.bands)
    yield from _inspect_known(parts, found)


def _inspect_confidence(raster: Raster, path: Path) -> Iterator[Told]:
    """Each pixel that has a class has a probability, and no other."""
    parts = [*raster.parts.values()]
    found = recount_raster(path, (part.core for part in parts))
    yield from inspect_layout(found, raster.height, raster.width)
    yield from _inspect_known(parts, found)


def _inspect_known(parts: list[Part], found: RasterCount) -> Iterator[Told]:
    for part, counts in zip(parts, found.counts, strict=False):
        known = int(counts[1:].sum())
        if known != part.done:
            yield "wrong_count", f"{part.done} pixels in {part.core}", known


def _inspect_raster(raster: Raster, one: Pass, path: Path) -> Iterator[Told]:
    """Count a raster's mask again, block by block."""
    parts = [part for _, part in sorted(raster.parts.items(), key=lambda one: one[0])]
    found = recount_raster(path, (part.core for part in parts))
    yield from inspect_layout(found, raster.height, raster.width)
    made_by = raster.task.fingerprint if raster.task is not None else ""
    yield from inspect_made_by(found, made_by, one.bundle)
    for part, counts in zip(parts, found.counts, strict=False):
        yield from _inspect_block(counts, part, one)


def inspect_made_by(found: RasterCount, fingerprint: str, bundle: str) -> Iterator[Told]:
    """Hold what a COG says of itself against who made it."""
    if found.nodata != NODATA:
        yield "wrong_record", f"nodata {NODATA}", found.nodata
    tags = found.tags.get("ATROUS_FINGERPRINT"), found.tags.get("ATROUS_BUNDLE")
    if tags != (fingerprint, bundle):
        yield "wrong_record", f"fingerprint {fingerprint} and bundle {bundle}", tags


def inspect_layout(
    found: RasterCount, height: int, width: int, bands: int = 1
) -> Iterator[Told]:
    """Hold the size and kind of a COG against its plan."""
    expected = height, width, bands, "uint8"
    got = found.height, found.width, found.bands, found.dtype
    if got != expected:
        yield "wrong_count", "{} x {} px, {} band of {}".format(*expected), got


def _inspect_block(counts: NDArray[np.int64], part: Part, one: Pass) -> Iterator[Told]:
    done = int(counts[: one.classes].sum())
    if done != part.done:
        yield "wrong_count", f"{part.done} pixels done in {part.core}", done
    if part.dead and not part.done and counts[NODATA] != part.core.size:
        yield "wrong_count", f"nodata alone in {part.core}, a dead letter", counts[NODATA]
    yield from inspect_values(counts, one, part.core)
