"""Polygons as files: GeoParquet 1.1, and made of it GeoJSON and FlatGeobuf.

GeoParquet is written as the polygons come, with the bounding box of each in a column of
its own, so that a reader of one place skips the row groups of others. The specification:
https://geoparquet.org/releases/v1.1.0/. GeoJSON is RFC 7946.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Polygons: TypeAlias = NDArray[np.object_]

MOST_IN_FLATGEOBUF: Final = 1_000_000
"""Polygons: the index over them is made in memory."""

SIDES: Final = ("xmin", "ymin", "xmax", "ymax")
SCHEMA: Final = pa.schema(
    [
        pa.field("raster", pa.string(), nullable=False),
        pa.field("class_id", pa.int32(), nullable=False),
        pa.field("class_name", pa.string(), nullable=False),
        # On the ellipsoid; null where the raster has no CRS.
        pa.field("area_m2", pa.float64()),
        # 0 to 1, mean over the pixels; null where the run has none.
        pa.field("confidence", pa.float64()),
        pa.field("geometry", pa.binary(), nullable=False),
        pa.field(
            "bbox",
            pa.struct([pa.field(side, pa.float64(), nullable=False) for side in SIDES]),
            nullable=False,
        ),
    ]
)
_GROUP_ROWS: Final = 16384
_GROUP_BYTES: Final = 64 * 2**20
_DECIMALS: Final = 9
"""Of degrees in GeoJSON: a tenth of a millimetre."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Polygons and what is known of each, n of them."""

    raster: str
    classes: NDArray[np.uint8]
    names: list[str]
    """Of each one's class."""

    areas: NDArray[np.float64]
    """NaN where it is not known."""

    confidence: NDArray[np.float64]
    """NaN where it is not known."""

    polygons: Polygons


class PolygonWriter:
    """Writes GeoParquet to a local file, one row group in memory at a time."""

    def __init__(self, path: Path, crs: dict[str, Any] | None) -> None:
        """Open the file; use as a context manager, so that it is finished.

        Args:
            path: Local file to write.
            crs: PROJJSON; None where coordinates are no place on Earth.
        """
        self._crs = crs
        self._held: list[pa.Table] = []
        self._bounds: NDArray[np.float64] | None = None
        self._types: set[int] = set()
        self.count = 0
        self._file = pq.ParquetWriter(path, SCHEMA, compression="zstd")

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the last row group, and the footer with what is known of all."""
        self._flush()
        self._file.add_key_value_metadata({"geo": json.dumps(self._describe())})
        self._file.close()

    def add(self, rows: Rows) -> None:
        """Append some polygons."""
        if not len(rows.polygons):
            return
        bounds = shapely.bounds(rows.polygons)
        self._take_in(bounds)
        self._types |= set(np.unique(shapely.get_type_id(rows.polygons)).tolist())
        table = pa.Table.from_arrays(_columns(rows, bounds), schema=SCHEMA)
        self._held.append(table)
        self.count += len(table)
        size = sum(one.nbytes for one in self._held)
        if size > _GROUP_BYTES or sum(map(len, self._held)) >= _GROUP_ROWS:
            self._flush()

    def _take_in(self, bounds: NDArray[np.float64]) -> None:
        corners = [] if self._bounds is None else [self._bounds]
        every = np.vstack([*corners, bounds])
        self._bounds = np.concatenate([every[:, :2].min(axis=0), every[:, 2:].max(axis=0)])

    def _flush(self) -> None:
        if self._held:
            self._file.write_table(pa.concat_tables(self._held), row_group_size=_GROUP_ROWS)
        self._held = []

    def _describe(self) -> dict[str, Any]:
        """What GeoParquet wants to have told."""
        names = {
            int(shapely.GeometryType.POLYGON): "Polygon",
            int(shapely.GeometryType.MULTIPOLYGON): "MultiPolygon",
        }
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": [names[one] for one in sorted(self._types)],
            "crs": self._crs,
            "edges": "planar",
            "orientation": "counterclockwise",
            "covering": {"bbox": {side: ["bbox", side] for side in SIDES}},
        }
        if self._bounds is not None:
            column["bbox"] = self._bounds.tolist()
        columns = {"geometry": column}
        return {"version": "1.1.0", "primary_column": "geometry", "columns": columns}


def _columns(rows: Rows, bounds: NDArray[np.float64]) -> list[pa.Array]:
    sides = [pa.array(values) for values in bounds.T]
    box = SCHEMA.field("bbox").type
    return [
        pa.array([rows.raster] * len(rows.polygons)),
        pa.array(rows.classes, type=pa.int32()),
        pa.array(rows.names, type=pa.string()),
        pa.array(rows.areas, from_pandas=True),
        pa.array(rows.confidence, from_pandas=True),
        pa.array(shapely.to_wkb(rows.polygons), type=pa.binary()),
        pa.StructArray.from_arrays(sides, fields=list(box)),
    ]


def write_geojson(source: Path, target: Path) -> None:
    """Write GeoParquet of ours, in WGS 84, as one GeoJSON FeatureCollection."""
    with target.open("w", encoding="utf-8") as file:
        file.write('{"type":"FeatureCollection","features":[')
        before = ""
        for text in _features(source):
            file.write(before + text)
            before = ","
        file.write("]}")


def _features(source: Path) -> Iterator[str]:
    for batch in _batches(source):
        polygons = shapely.from_wkb(batch.column("geometry").to_numpy(zero_copy_only=False))
        rounded = shapely.transform(polygons, lambda xy: np.round(xy, _DECIMALS))
        outlines = shapely.to_geojson(rounded)
        properties = batch.drop_columns(["geometry"]).to_pylist()
        for outline, fields in zip(outlines, properties, strict=True):
            about = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
            yield f'{{"type":"Feature","properties":{about},"geometry":{outline}}}'


def write_flatgeobuf(source: Path, target: Path, crs: str | None) -> None:
    """Write GeoParquet of ours as FlatGeobuf, with its index.

    Raises:
        InputError: There are too many polygons.
    """
    import pyogrio

    with pq.ParquetFile(source) as file:
        count, geo = file.metadata.num_rows, json.loads(file.metadata.metadata[b"geo"])
    if count > MOST_IN_FLATGEOBUF:
        raise InputError(
            f"FlatGeobuf is written of at most {MOST_IN_FLATGEOBUF} polygons, got {count}; "
            "write Parquet, or leave some out with --min-area or --class"
        )
    types = geo["columns"]["geometry"]["geometry_types"] or ["Polygon"]
    schema = SCHEMA.remove(SCHEMA.get_field_index("bbox"))
    pyogrio.write_arrow(
        pa.RecordBatchReader.from_batches(schema, _batches(source)),
        target,
        driver="FlatGeobuf",
        geometry_name="geometry",
        geometry_type=types[0] if len(types) == 1 else "Unknown",
        crs=crs,
    )


def _batches(source: Path) -> Iterator[pa.RecordBatch]:
    """All but the bounding boxes."""
    names = [name for name in SCHEMA.names if name != "bbox"]
    with pq.ParquetFile(source) as file:
        yield from file.iter_batches(batch_size=_GROUP_ROWS, columns=names)


def to_confidence(
    total: NDArray[np.int64], known: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean confidences of sums of 255 times them; NaN where no pixel has one."""
    mean = np.full(len(total), math.nan)
    np.divide(total, 255 * known, out=mean, where=known > 0)
    return mean
