"""Where rasters lie: CRS, transform, control points and RPCs, and the way elsewhere.

A raster keeps the grid that it has, whatever that is, unless the user puts all of
them on another CRS or pixel size. Then its grid is computed from its header alone,
with corners at whole multiples of the pixel size, so that neighbours align.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.rpc import RPC
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from jobs.errors import InputError, ItemError
from jobs.inputs.raster_faults import GDAL_ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rasterio.io import DatasetReader

    from jobs.spec import Reading

_MAX_POINTS: Final = 10_000
MAX_SIDE: Final = 2**31 - 1

_SLACK: Final = 1e-6
"""Parts of a pixel that a corner may miss a multiple by and still lie on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A grid that a raster is put on."""

    height: int
    width: int
    transform: Affine
    crs: CRS
    scale: float
    """Pixels of the grid for one of the raster's, along a side; below 1 for larger ones."""


class Place(Protocol):
    """Where a raster lies, whatever it is read with."""

    @property
    def crs(self) -> CRS | None:
        """Of the transform."""
        ...

    @property
    def transform(self) -> Affine:
        """From (column, row) to coordinates."""
        ...

    @property
    def gcps(self) -> tuple[list[GroundControlPoint], CRS | None]:
        """Control points, and their CRS."""
        ...

    @property
    def rpcs(self) -> RPC | None:
        """Rational polynomials."""
        ...

    def tags(self) -> Mapping[str, str]:
        """Metadata."""
        ...


def check_crs(text: str) -> None:
    """Refuse a CRS that means nothing, or that no raster lies in.

    Raises:
        InputError: PROJ does not know it, or it is vertical or geocentric.
    """
    try:
        crs, reason = _parse_crs(text), "it is neither projected nor geographic"
        is_flat = crs.is_projected or crs.is_geographic
    except CRSError as error:
        reason, is_flat = str(error), False
    if not is_flat:
        raise InputError(f"crs must be a CRS such as EPSG:3857, got {text!r} ({reason})")


def describe_grid(raster: Place, target: Target | None = None) -> str:
    """Where a raster lies, as JSON for ``parse_grid``.

    Args:
        raster: Open for reading.
        target: Where it is put instead; None where it stays.

    Raises:
        ItemError: ``too_large``, or ``undecodable``: the RPCs are damaged.
    """
    if target is not None:
        fields = {
            "crs": target.crs.to_wkt(),
            "transform": list(target.transform)[:6],
            "gcps": [],
            "datetime": _taken(raster),
        }
        return json.dumps(fields)
    points, _ = raster.gcps
    if len(points) > _MAX_POINTS:
        text = f"{len(points)} control points exceed {_MAX_POINTS}"
        raise ItemError("too_large", text)
    crs, rpcs = _crs_of(raster), _read_rpcs(raster)
    fields = {
        "crs": None if crs is None else crs.to_wkt(),
        "transform": list(raster.transform)[:6],
        # Their ids are made anew each time that a file is opened.
        "gcps": [point.asdict() | {"id": str(i)} for i, point in enumerate(points)],
        "datetime": _taken(raster),
    }
    return json.dumps(fields if rpcs is None else fields | {"rpcs": rpcs.to_gdal()})


def _taken(raster: Place) -> str | None:
    """When, not where; but it is wanted where the grid is: at the end, for STAC."""
    text: str | None = raster.tags().get("TIFFTAG_DATETIME")
    return text


def parse_grid(grid: str) -> dict[str, Any]:
    """What ``rasterio.open`` needs, besides the size, to write on the same grid.

    Returns:
        ``crs``, and either ``transform`` or ``gcps``; ``rpcs`` where there are some.

    Raises:
        ItemError: ``undecodable``: the CRS means nothing.
    """
    fields = json.loads(grid)
    text = fields["crs"]
    try:
        crs = CRS.from_wkt(text) if text else text
    except CRSError as error:
        raise ItemError("undecodable", f"its CRS means nothing: {error}"[:300]) from error
    rpcs = {"rpcs": RPC.from_gdal(fields["rpcs"])} if "rpcs" in fields else {}
    if fields["gcps"]:
        points = [GroundControlPoint(**point) for point in fields["gcps"]]
        return {"gcps": points, "crs": crs or CRS(), **rpcs}
    return {"transform": Affine(*fields["transform"]), "crs": crs, **rpcs}


def is_nowhere(grid: str) -> bool:
    """Whether nothing says where on Earth a raster lies."""
    fields = json.loads(grid)
    return fields["crs"] is None and "rpcs" not in fields


def find_target(raster: DatasetReader, reading: Reading) -> Target | None:
    """The grid that a raster is to be put on; None where it stays on its own.

    Raises:
        ItemError: ``unsupported``: it does not say where it lies, or cannot be put
            there; ``too_large``: it would have too many pixels.
    """
    if not reading.is_warped:
        return None
    source = require_place(
        raster, "it cannot be put on another grid; leave crs and resolution out"
    )
    crs = source if reading.crs is None else _parse_crs(reading.crs)
    natural, (left, bottom, right, top) = fit(raster, source, crs)
    size = reading.resolution or natural
    first_col, last_col = floor(left / size), -floor(-right / size)
    first_row, last_row = floor(-top / size), -floor(bottom / size)
    height, width = max(last_row - first_row, 1), max(last_col - first_col, 1)
    if max(height, width) > MAX_SIDE:
        raise ItemError("too_large", f"it would be {width} x {height} px of {size:g}")
    return Target(
        height=height,
        width=width,
        transform=Affine(size, 0.0, first_col * size, 0.0, -size, -first_row * size),
        crs=crs,
        scale=natural / size,
    )


def fit(
    raster: DatasetReader, source: CRS, crs: CRS
) -> tuple[float, tuple[float, float, float, float]]:
    """The size of a pixel that fits a raster in a CRS, and its bounds there.

    Args:
        raster: Open for reading.
        source: Its own CRS, or that of its control points.
        crs: Where it is to be put.

    Returns:
        Units of the CRS; left, bottom, right and top.

    Raises:
        ItemError: ``unsupported``: it has no place there.
    """
    try:
        with WarpedVRT(raster, src_crs=source, crs=crs, tolerance=0) as fitting:
            transform, height, width = fitting.transform, fitting.height, fitting.width
    except GDAL_ERRORS as error:
        text = f"it cannot be put on {crs.to_string()[:60]}: {error.__cause__ or error}"
        raise ItemError("unsupported", text[:300]) from error
    left, top = transform.c, transform.f
    right, bottom = left + width * transform.a, top + height * transform.e
    if not all(map(math.isfinite, (left, top, right, bottom))):
        raise ItemError("unsupported", f"it has no place in {crs.to_string()}")
    return transform.a, (left, bottom, right, top)


def require_place(raster: DatasetReader, consequence: str) -> CRS:
    """The CRS that a raster's pixels can be found in.

    Args:
        raster: Open for reading.
        consequence: What follows where there is none, and what to do about it.

    Raises:
        ItemError: ``unsupported``: there is none.
    """
    points, _ = raster.gcps
    crs = _crs_of(raster)
    if not points and raster.transform == Affine.identity():
        if _read_rpcs(raster) is not None:
            text = "it lies where RPCs say, which needs heights of the ground"
        else:
            text = "it does not say where it lies"
    elif crs is None:
        text = "it has no CRS"
    else:
        return crs
    raise ItemError("unsupported", f"{text}, so {consequence}")


def _parse_crs(text: str) -> CRS:
    return CRS.from_user_input(text)


def floor(value: float) -> int:
    """Round down what is not all but a whole number."""
    return math.floor(value + _SLACK)


def _crs_of(raster: Place) -> CRS | None:
    points, points_crs = raster.gcps
    return points_crs if points else raster.crs


def _read_rpcs(raster: Place) -> RPC | None:
    try:
        rpcs = raster.rpcs
        # Written and read as it will be, so that what is damaged shows here.
        return None if rpcs is None else RPC.from_gdal(rpcs.to_gdal())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        text = f"its RPCs are damaged: {type(error).__name__} {error}"
        raise ItemError("undecodable", text[:300]) from error
