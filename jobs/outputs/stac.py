"""What a map made, as a static STAC catalog (stac-spec 1.1.0).

One Item beside each COG and one Collection over them, plain JSON that is written
here and read by pystac in the tests. The same raster gives the same bytes: no
clock is looked at. Names of files stand in links as they are, not encoded, for
readers of folders and of S3 take them so.

When a raster was taken is what its own tag says (TIFFTAG_DATETIME, taken for
UTC). One that does not say has no ``datetime``, as STAC allows, and a span from the
first aerial photograph to the last year that 64 bits of nanoseconds hold: the time
of a file would be a guess that looks like knowledge.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from jobs.outputs.footprint import WORLD, find_bounds, find_footprint, locate, read_crs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from deeplab.bundle import Bundle
    from jobs.assembly import RasterNames
    from jobs.ledger import Output
    from jobs.outputs.footprint import Box

VERSION: Final = "1.1.0"
NODATA: Final = 255

_SITE: Final = "https://stac-extensions.github.io"
_EXTENSIONS: Final = [
    f"{_SITE}/classification/v2.0.0/schema.json",
    f"{_SITE}/file/v2.1.0/schema.json",
    f"{_SITE}/processing/v1.2.0/schema.json",
    f"{_SITE}/projection/v2.0.0/schema.json",
    f"{_SITE}/raster/v1.1.0/schema.json",
]
_COG: Final = "image/tiff; application=geotiff; profile=cloud-optimized"
_UNKNOWN: Final = ("1858-01-01T00:00:00Z", "2261-12-31T23:59:59Z")
_EARTH_M: Final = 6_371_008.8
"""Mean radius."""

_SHA256: Final = "1220"
"""How a multihash of SHA-256 begins: what it is, and that it has 32 bytes."""

_COLLECTION_LINKS: Final = [
    {"href": "./collection.json", "rel": rel, "type": "application/json"}
    for rel in ("collection", "parent", "root")
]


class Placed(Protocol):
    """A raster of a plan: a first ``Block``, or an ``Assembly``."""

    @property
    def height(self) -> int:
        """Its rows."""
        ...

    @property
    def width(self) -> int:
        """Its columns."""
        ...

    @property
    def grid(self) -> str:
        """Where it lies, from ``RasterInfo``."""
        ...


def describe_raster(  # noqa: PLR0913 - all that an Item tells
    raster: Placed,
    outputs: tuple[Output, ...],
    *,
    source: str,
    bundle: Bundle,
    fingerprint: str,
    collection: str,
    chosen: tuple[int, ...] = (),
) -> bytes:
    """The STAC Item of a finished raster, to be stored under ``RasterNames.item``.

    Args:
        raster: How large it is and where it lies.
        outputs: The COG as it stands, and those of confidence and probabilities if
            there are any.
        source: URI of the raster that was mapped.
        bundle: What mapped it.
        fingerprint: Of the pass that mapped it.
        collection: Id of the run's Collection.
        chosen: Classes whose probabilities there are, by band.

    Returns:
        JSON in UTF-8; the same arguments give the same bytes.
    """
    geometry, bounds = find_footprint(raster.grid, raster.height, raster.width)
    fields = json.loads(raster.grid)
    folder, name = posixpath.split(outputs[0].name)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": _EXTENSIONS,
        "id": name.removesuffix(".tif"),
        "collection": collection,
        "geometry": geometry,
        "properties": {
            **_describe_time(fields),
            **_describe_grid(fields, raster.height, raster.width),
            "atrous:architecture": bundle.architecture,
            "atrous:bundle": bundle.digest,
            "atrous:fingerprint": fingerprint,
            "processing:software": {"atrous": version("atrous")},
        },
        "links": [*_COLLECTION_LINKS, {"href": source, "rel": "derived_from"}],
        "assets": _describe_assets(fields, raster, outputs, folder, bundle, chosen),
    }
    if bounds is not None:
        item["bbox"] = bounds
    return to_json(item)


def write_collection(
    path: Path,
    rasters: Iterable[tuple[RasterNames, Placed]],
    *,
    bundle: Bundle,
    collection: str,
) -> None:
    """Write the STAC Collection over a run's Items; memory does not grow with them.

    Args:
        path: Local file to write, to be stored under ``COLLECTION``.
        rasters: Names of what each was made into, and where it lies.
        bundle: What mapped them.
        collection: Its id.
    """
    extent = _Extent()
    with path.open("w", encoding="utf-8") as file:
        root = {"href": "./collection.json", "rel": "root", "type": "application/json"}
        file.write(f'{{"links": [\n{json.dumps(root, sort_keys=True)}')
        for names, raster in rasters:
            extent.add(raster)
            link = {
                "href": f"./{posixpath.basename(names.item)}",
                "rel": "item",
                "type": "application/geo+json",
            }
            file.write(f",\n{json.dumps(link, sort_keys=True)}")
        rest = _describe_run(extent, bundle, collection)
        file.write(f"\n],\n{json.dumps(rest, sort_keys=True)[1:]}\n")


class _Extent:
    """Grows with each raster."""

    def __init__(self) -> None:
        self._box: Box | None = None
        self._first, self._last = _UNKNOWN[::-1]
        self._empty = True

    def add(self, raster: Placed) -> None:
        start, end = _find_time(json.loads(raster.grid)) or _UNKNOWN
        self._empty = False
        self._first, self._last = min(self._first, start), max(self._last, end)
        box = find_bounds(raster.grid, raster.height, raster.width)
        if box is None:
            return
        if box[0] > box[2]:
            box = (-180.0, box[1], 180.0, box[3])
        held = self._box or box
        west, south = min(held[0], box[0]), min(held[1], box[1])
        self._box = (west, south, max(held[2], box[2]), max(held[3], box[3]))

    def describe(self) -> dict[str, Any]:
        span = _UNKNOWN if self._empty else (self._first, self._last)
        return {
            "spatial": {"bbox": [self._box or WORLD]},
            "temporal": {"interval": [span]},
        }


def _describe_run(extent: _Extent, bundle: Bundle, collection: str) -> dict[str, Any]:
    names = ", ".join(info.name for info in bundle.classes)
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "id": collection,
        "title": f"Classes found by {bundle.architecture}",
        "description": f"Rasters mapped by Atrous with bundle {bundle.digest}: {names}",
        "license": "other",
        "extent": extent.describe(),
    }


def _find_time(fields: dict[str, Any]) -> tuple[str, str] | None:
    """When a raster was taken, twice, as an index or its tag says; None without."""
    said = fields.get("datetime") or ""
    try:
        found = datetime.fromisoformat(said)
    except ValueError:
        try:
            found = datetime.strptime(said, "%Y:%m:%d %H:%M:%S")  # noqa: DTZ007 - it is text again at once
        except ValueError:
            return None
    return (f"{found.replace(tzinfo=None).isoformat()}Z",) * 2


def _describe_time(fields: dict[str, Any]) -> dict[str, str | None]:
    found = _find_time(fields)
    if found is not None:
        return {"datetime": found[0]}
    start, end = _UNKNOWN
    return {"datetime": None, "start_datetime": start, "end_datetime": end}


def _describe_grid(fields: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """The projection extension; control points alone are no projection to it."""
    found: dict[str, Any] = {"proj:code": None, "proj:shape": [height, width]}
    numbers = fields["transform"]
    if fields["gcps"] or not all(map(math.isfinite, numbers)):
        return found
    found["proj:transform"] = numbers
    if fields["crs"]:
        a, b, c, d, e, f = numbers
        xs = [a * col + b * row + c for row in (0, height) for col in (0, width)]
        ys = [d * col + e * row + f for row in (0, height) for col in (0, width)]
        found["proj:bbox"] = [min(xs), min(ys), max(xs), max(ys)]
        found |= _describe_crs(read_crs(fields["crs"]))
    return found


def _describe_crs(crs: CRS) -> dict[str, str | None]:
    """By its EPSG code where that says all, else in full."""
    number = crs.to_epsg()
    if number is not None and CRS.from_epsg(number) == crs:
        return {"proj:code": f"EPSG:{number}"}
    return {"proj:code": None, "proj:wkt2": _to_wkt2(crs)}


def _to_wkt2(crs: CRS) -> str:
    try:
        text: str = crs.to_wkt(version="WKT2_2019")
    except CRSError:  # an old one, which the new form cannot say
        text = crs.to_wkt()
    return text


def _describe_assets(
    fields: dict[str, Any],
    raster: Placed,
    outputs: tuple[Output, ...],
    folder: str,
    bundle: Bundle,
    chosen: tuple[int, ...],
) -> dict[str, Any]:
    resolution = _find_resolution(fields, raster)
    band: dict[str, Any] = {"data_type": "uint8", "sampling": "area"}
    if resolution is not None:
        band["spatial_resolution"] = resolution
    classes: dict[str, Any] = {"title": "Class of each pixel", "roles": ["data"]}
    classes |= {"classification:classes": _describe_classes(bundle)}
    classes |= {"nodata": NODATA, "raster:bands": [band | {"nodata": NODATA}]}
    sure: dict[str, Any] = {"title": "Confidence of each pixel, 0 to 255"}
    sure |= {"roles": ["metadata"]}
    sure |= {"raster:bands": [band]}
    abouts = {
        "data": classes,
        "confidence": sure,
        "probabilities": _describe_probabilities(bundle, chosen, band),
    }
    found = {}
    for output in outputs:
        place = posixpath.dirname(output.name)
        name = place if place in abouts else "data"
        found[name] = abouts[name] | _describe_file(output, folder)
    return found


def _describe_probabilities(
    bundle: Bundle, chosen: tuple[int, ...], band: dict[str, Any]
) -> dict[str, Any]:
    """A band for each class, in order."""
    names = [bundle.classes[one].name for one in chosen]
    about = [{"name": name, "description": f"Probability of {name}"} for name in names]
    return {
        "title": "Probability of classes, 0 to 255",
        "roles": ["data"],
        "bands": about,
        "raster:bands": [{**band, "scale": 1 / 255, "offset": 0} for _ in names],
    }


def _describe_file(output: Output, folder: str) -> dict[str, Any]:
    href = posixpath.relpath(output.name, folder)
    return {
        "href": href if href.startswith("../") else f"./{href}",
        "type": _COG,
        "data_type": "uint8",
        "file:size": output.size,
        "file:checksum": f"{_SHA256}{output.sha256}",
    }


def _describe_classes(bundle: Bundle) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {
            "value": value,
            "name": re.sub(r"[^0-9A-Za-z_-]+", "-", info.name).strip("-") or str(value),
            "title": info.name,
            "color_hint": "{:02X}{:02X}{:02X}".format(*info.color),
        }
        for value, info in enumerate(bundle.classes)
    ]
    nodata = {"value": NODATA, "name": "nodata", "title": "No data", "nodata": True}
    return [*found, nodata]


def _find_resolution(fields: dict[str, Any], raster: Placed) -> float | None:
    """Side of a square with a pixel's area, in metres; None where it is unknown.

    That of the CRS, or for degrees that of the middle of the raster on a sphere.
    """
    if not fields["crs"] or fields["gcps"]:
        return None
    a, b, _, d, e, _ = fields["transform"]
    crs = read_crs(fields["crs"])
    if crs.is_projected:
        metres = crs.linear_units_factor[1] * math.sqrt(abs(a * e - b * d))
    else:
        row, col = np.array([raster.height / 2]), np.array([raster.width / 2])
        middle = locate(fields, row, col)
        if middle is None or not crs.is_geographic:
            return None
        scale = math.cos(math.radians(middle[1][0])) * abs(a * e - b * d)
        metres = _EARTH_M * math.radians(math.sqrt(abs(scale)))
    return float(f"{metres:.6g}") if math.isfinite(metres) and metres > 0 else None


def to_json(fields: dict[str, Any]) -> bytes:
    """Always the same text for the same fields."""
    return json.dumps(fields, sort_keys=True, indent=1, allow_nan=False).encode()
