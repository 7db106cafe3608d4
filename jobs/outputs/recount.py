"""Count the pixels of finished outputs again, from their own bytes.

Nothing here knows what should be there: a file is read as it is, in small parts,
and whatever cannot be read is a ``ValueError`` with the reason.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.errors import RasterioError
from rasterio.windows import Window as GdalWindow

from jobs.inputs.rasters import GDAL_OPTIONS
from jobs.mask_choice import MASK_ENCODINGS
from jobs.outputs.masks import mask_schema, read_record
from jobs.outputs.png import decode_png

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from deeplab.tiles import Window

_VALUES: Final = 256
_PIXELS_AT_ONCE: Final = 2**20
_BATCH: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskRow:
    """One row of a file of masks."""

    fields: dict[str, Any]
    """Every column but ``mask``."""

    size: int
    """Pixels of the mask."""

    counts: NDArray[np.int64]
    """(256,): pixels of each value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RasterCount:
    """What a mask that is a GeoTIFF holds."""

    height: int
    width: int
    bands: int
    dtype: str
    nodata: float | None
    tags: dict[str, str]
    counts: tuple[NDArray[np.int64], ...]
    """(256,) for each window that lies in it: pixels of each value of the first band,
    or of GDAL's mask: 255 where there is data, else 0."""


def recount_masks(path: Path) -> Iterator[MaskRow]:
    """The rows of a file of masks, one row group in memory at a time.

    Raises:
        ValueError: It is damaged, or has other columns.
    """
    with _parquet_errors(), pq.ParquetFile(path) as file:
        schemas = {one: mask_schema(one) for one in MASK_ENCODINGS}
        found = [one for one, each in schemas.items() if file.schema_arrow.equals(each)]
        if not found:
            raise ValueError("it has not the columns of masks")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            table.validate(full=True)
            for row in table.to_pylist():
                if row["mask_encoding"] != found[0]:
                    raise ValueError(f"a mask that is {found[0]} is said to be none")
                mask = _unpack(row, row.pop("mask"))
                yield MaskRow(fields=row, size=mask.size, counts=_count(mask))


def _unpack(row: dict[str, Any], held: bytes | dict[str, Any]) -> NDArray[np.uint8]:
    """The values of a mask, whatever their number."""
    if isinstance(held, dict):
        return decode_png(held["bytes"], row["height"], row["width"])
    return np.frombuffer(held, dtype=np.uint8)


def read_rows(data: bytes, columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of any Parquet file of ours, some of its columns.

    Raises:
        ValueError: It is damaged, or lacks a column.
    """
    with _parquet_errors(), pq.ParquetFile(pa.BufferReader(data)) as file:
        missing = set(columns) - set(file.schema_arrow.names)
        if missing:
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        for batch in file.iter_batches(batch_size=_BATCH, columns=list(columns)):
            batch.validate(full=True)
            yield from batch.to_pylist()


def read_signature(path: Path) -> str:
    """The record that a file of masks was signed with.

    Raises:
        ValueError: There is none, or it is no Parquet file.
    """
    with _parquet_errors(), pa.memory_map(str(path)) as file:
        return read_record(file.read_buffer())


def recount_raster(
    path: Path, windows: Iterable[Window], *, data: bool = False
) -> RasterCount:
    """What a mask that is a local GeoTIFF holds; one window in memory at a time.

    Args:
        path: The file.
        windows: Where to count.
        data: Count where there is data, as GDAL has it, in place of values.

    Raises:
        ValueError: It is damaged, or has pixels of more than a byte.
    """
    with (
        _raster_errors(),
        rasterio.Env(**GDAL_OPTIONS),
        rasterio.open(path, driver="GTiff") as raster,
    ):
        boxes = (
            GdalWindow(one.col, one.row, one.width, one.height)
            for one in windows
            if one.stop_row <= raster.height and one.stop_col <= raster.width
        )
        return RasterCount(
            height=raster.height,
            width=raster.width,
            bands=raster.count,
            dtype=raster.dtypes[0],
            nodata=raster.nodata,
            tags=raster.tags(),
            counts=tuple(
                _count(
                    raster.dataset_mask(window=box) if data else raster.read(1, window=box)
                )
                for box in boxes
            ),
        )


def _count(mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each value."""
    if mask.dtype != np.uint8:
        raise ValueError(f"masks are uint8, it is {mask.dtype}")
    flat = mask.ravel()
    total = np.zeros(_VALUES, dtype=np.int64)
    for start in range(0, flat.size, _PIXELS_AT_ONCE):
        # Counting makes eight bytes of each.
        total += np.bincount(flat[start : start + _PIXELS_AT_ONCE], minlength=_VALUES)
    return total


@contextlib.contextmanager
def _parquet_errors() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error


@contextlib.contextmanager
def _raster_errors() -> Iterator[None]:
    try:
        yield
    except RasterioError as error:
        cause = error.__cause__ or error
        raise ValueError(" ".join(str(cause).split())[:300]) from error
