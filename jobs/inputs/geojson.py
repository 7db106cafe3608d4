"""The area that a map is limited to, as a user gives it: bounds, or a GeoJSON file.

Both become one MultiPolygon in longitude and latitude (RFC 7946), as text that is the
same for the same area, because its digest is in the fingerprint of a run.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError
from jobs.spec import write_area

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 2**20
"""Of an area's text, as it is kept in the run folder."""

MAX_FILE: Final = 8 * 2**20
"""Of a GeoJSON file."""

_BOX: Final = re.compile(r"\s*[-+\d.eE]+\s*(,\s*[-+\d.eE]+\s*){3}")
_DIGITS: Final = 7
_WGS84_NAMES: Final = re.compile(r"CRS84|(EPSG\W+4326)$|WGS ?84", re.IGNORECASE)


def is_box(text: str) -> bool:
    """Whether an area is given by its bounds, and not by a file."""
    return _BOX.fullmatch(text) is not None


def parse_box(text: str) -> str:
    """An area between two meridians and two parallels.

    Args:
        text: ``west,south,east,north`` in degrees; west is the greater one across the
            antimeridian.

    Raises:
        InputError: The numbers are no such box.
    """
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        west = south = east = north = math.nan
    if not (-90 <= south < north <= 90 and max(abs(west), abs(east)) <= 180) or (  # noqa: PLR2004
        west == east
    ):
        raise InputError(
            "--aoi must be west,south,east,north in degrees, longitude from -180 to 180, "
            f"latitude from -90 to 90, got {text}"
        )
    spans = [(west, east)] if west < east else [(west, 180.0), (-180.0, east)]
    corners = (
        [[left, south], [right, south], [right, north], [left, north], [left, south]]
        for left, right in spans
    )
    return _write([[ring] for ring in corners])


def parse_geojson(data: bytes, name: str) -> str:
    """An area of the polygons in a GeoJSON file.

    Args:
        data: Its bytes.
        name: What to call it in errors.

    Raises:
        InputError: It holds something else, or no longitudes and latitudes.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is no GeoJSON: {str(error)[:200]}") from error
    if not isinstance(document, dict):
        raise InputError(f"{name} is no GeoJSON; give polygons in longitude and latitude")
    crs = document.get("crs")
    if crs is not None and not _WGS84_NAMES.search(json.dumps(crs).rstrip('}" ')):
        raise InputError(
            f"{name} is in another CRS, got {json.dumps(crs)[:100]}; an area must be in "
            "longitude and latitude (WGS84)"
        )
    try:
        polygons = [_round(polygon, name) for polygon in _collect(document, name)]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise InputError(
            f"{name} has a geometry that is none ({str(error)[:100]}); give polygons"
        ) from error
    if not polygons:
        raise InputError(f"{name} holds no polygon; an area needs at least one")
    return _write(polygons)


def _write(polygons: list[list[Any]]) -> str:
    text = write_area({"type": "MultiPolygon", "coordinates": polygons})
    if len(text) > MAX_BYTES:
        raise InputError(
            f"the area takes {len(text)} bytes, {MAX_BYTES} are allowed; simplify it"
        )
    return text


def _collect(document: dict[str, Any], name: str) -> Iterator[list[Any]]:
    kind = document.get("type")
    if kind == "FeatureCollection":
        parts = document["features"]
    elif kind == "GeometryCollection":
        parts = document["geometries"]
    elif kind == "Feature":
        parts = [document["geometry"]] if document["geometry"] else []
    else:
        if kind not in {"Polygon", "MultiPolygon"}:
            raise InputError(f"{name} has a {kind}; an area is of polygons")
        held = document["coordinates"]
        yield from [held] if kind == "Polygon" else held
        return
    for part in parts:
        yield from _collect(part, name)


def _round(polygon: list[Any], name: str) -> list[list[list[float]]]:
    rings = [
        [[round(float(x), _DIGITS), round(float(y), _DIGITS)] for x, y, *_ in ring]
        for ring in polygon
    ]
    for lon, lat in itertools.chain.from_iterable(rings):
        if not (abs(lon) <= 180 and abs(lat) <= 90):  # noqa: PLR2004
            raise InputError(
                f"{name} must be in longitude and latitude (WGS84), got {lon}, {lat}"
            )
    if any(len(ring) < 4 or ring[0] != ring[-1] for ring in rings):  # noqa: PLR2004
        raise ValueError("a ring is not closed")
    if not rings:
        raise ValueError("a polygon has no ring")
    return rings
