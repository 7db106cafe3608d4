"""VRTs that only put GeoTIFFs beside each other, read without GDAL's driver for them.

A VRT names files, and GDAL would open whatever it names with whatever driver fits. So
the text is read here, what is not understood is refused, and every source is opened
by ``open_raster`` as any other GeoTIFF is, after its place was found to lie under one
of the folders that the user named.

What is understood is what gdalbuildvrt writes where no pixel is resampled: bands of
simple sources, or of complex ones with a nodata value and nothing more. Where no
source lies there is no data, also where the VRT names no nodata value.
"""

from __future__ import annotations

import os
import posixpath
import re
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import Affine

from jobs.errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 16 * 2**20
"""Of the text of a VRT: some ten thousand sources of three bands."""

_DTYPES: Final = {
    "Byte": "uint8",
    "Int8": "int8",
    "UInt16": "uint16",
    "Int16": "int16",
    "UInt32": "uint32",
    "Int32": "int32",
    "Float32": "float32",
    "Float64": "float64",
}
_IN_DATASET: Final = {"SRS", "GeoTransform", "GCPList", "Metadata", "VRTRasterBand"}
_IN_BAND: Final = {
    *("NoDataValue", "ColorInterp", "Scale", "Offset", "SimpleSource", "ComplexSource"),
    *("Description", "Metadata", "UnitType", "HideNoDataValue", "Histograms"),
}
_IN_SOURCE: Final = {
    *("SourceFilename", "SourceBand", "SourceProperties", "SrcRect", "DstRect", "NODATA"),
}
_ATTRIBUTES: Final = {
    "VRTDataset": {"rasterXSize", "rasterYSize"},
    "VRTRasterBand": {"dataType", "band", "blockXSize", "blockYSize"},
    "SimpleSource": {"resampling"},
    "ComplexSource": {"resampling"},
    "SourceFilename": {"relativeToVRT", "shared"},
}
_S3: Final = "/vsis3/"

_SLACK: Final = 1e-6
"""What a place may differ from a whole pixel where a program wrote it with digits."""

_EPSG: Final = re.compile(r"EPSG:\d{4,6}")
_WKT: Final = re.compile(r"[A-Z]\w*\s*\[")

Box = tuple[int, int, int, int]
"""Row, column, height, width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of one band of one file, and where it goes."""

    path: str
    """What GDAL calls the file."""

    band: int
    row: int
    col: int
    """Of the part in the file."""

    box: Box
    """Of the part in the VRT, and its size in both."""

    nodata: float | None
    """A value that is not copied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vrt:
    """What a VRT says, under the names that rasterio has for it."""

    height: int
    width: int
    crs: CRS | None
    transform: Affine
    gcps: tuple[list[GroundControlPoint], CRS | None]
    rpcs: RPC | None
    dtypes: tuple[str, ...]
    colorinterp: tuple[Any, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    nodatavals: tuple[float | None, ...]
    sources: tuple[tuple[Source, ...], ...]
    """Of each band; a later one lies above."""

    @property
    def count(self) -> int:
        """Bands, alpha among them."""
        return len(self.dtypes)

    def tags(self) -> dict[str, str]:
        """No metadata: that of its sources is theirs."""
        return {}


def parse_vrt(data: bytes, path: str, roots: tuple[str, ...]) -> Vrt:
    """Read the text of a VRT.

    Args:
        data: The text.
        path: What GDAL calls the VRT, for sources that are named from there.
        roots: Absolute folders and ``/vsis3/`` prefixes that sources may lie under.

    Raises:
        ItemError: ``undecodable``: it is no VRT; ``too_large``; or ``unsupported``:
            something in it is not understood, or a source lies elsewhere.
    """
    root = _parse_xml(data)
    _check(root, _IN_DATASET)
    bands = root.findall("VRTRasterBand")
    for band in bands:
        _check(band, _IN_BAND)
    if not bands:
        raise ItemError("undecodable", "the VRT has no band")
    places = _Places(os.path.dirname(path), roots)  # noqa: PTH120 - S3 has no Path
    points = root.find("GCPList")
    try:
        return Vrt(
            height=_side(root.attrib["rasterYSize"]),
            width=_side(root.attrib["rasterXSize"]),
            crs=_parse_crs(root.findtext("SRS")),
            transform=_parse_transform(root.findtext("GeoTransform")),
            gcps=([], None) if points is None else _parse_points(points),
            rpcs=_parse_rpcs(root),
            dtypes=tuple(_dtype(band) for band in bands),
            colorinterp=tuple(_color(band) for band in bands),
            scales=tuple(float(band.findtext("Scale") or 1) for band in bands),
            offsets=tuple(float(band.findtext("Offset") or 0) for band in bands),
            nodatavals=tuple(_number(band.findtext("NoDataValue")) for band in bands),
            sources=tuple(tuple(_sources(band, places)) for band in bands),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        text = f"the VRT makes no sense: {type(error).__name__} {error}"
        raise ItemError("undecodable", text[:300]) from error


class _Places:
    """Where sources may lie."""

    def __init__(self, folder: str, roots: tuple[str, ...]) -> None:
        self._folder = folder
        self._roots = [_real(root).rstrip("/") for root in roots]
        self._known: dict[tuple[str, str], str] = {}

    def find(self, name: str, relative: str) -> str:
        """What GDAL calls a source that the VRT names, links followed.

        Raises:
            ItemError: ``unsupported``: it lies under none of the roots.
        """
        key = name, relative
        if key not in self._known:
            self._known[key] = self._find(name, relative)
        return self._known[key]

    def _find(self, name: str, relative: str) -> str:
        is_relative = relative == "1" and not name.startswith("/")
        path = f"{self._folder}/{name}" if is_relative else name
        found = _real(path)
        is_remote = path.startswith(_S3)
        is_plain = "//" not in path and found.startswith(_S3) if is_remote else True
        # No way of GDAL's but this one, and no way out of it either.
        if not path.startswith("/") or not is_plain or _is_virtual(path, found):
            raise _refused(f"it names {name!r}, which is neither a path nor in S3")
        if not any(found.startswith(f"{root}/") for root in self._roots):
            raise _refused(f"its source {name!r} lies under no folder of allow_vrt")
        return found


def _real(path: str) -> str:
    """A path without links and dots; in S3 there are no links."""
    if path.startswith(_S3):
        return posixpath.normpath(path)
    return os.path.realpath(path)


def _is_virtual(path: str, found: str) -> bool:
    return found.startswith("/vsi") and not path.startswith(_S3)


class _Builder(ET.TreeBuilder):
    def doctype(self, *_: object) -> None:
        raise ItemError("unsupported", "the VRT declares entities, which are not read")


def _parse_xml(data: bytes) -> ET.Element:
    if len(data) > MAX_BYTES:
        text = f"the VRT has {len(data)} bytes, more than {MAX_BYTES}"
        raise ItemError("too_large", text)
    try:
        # Entities are refused before one is read, so none can grow or name a file.
        parser = ET.XMLParser(target=_Builder())  # noqa: S314
        parser.feed(data)
        root: ET.Element = parser.close()
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ItemError("undecodable", f"it is no VRT: {error}"[:300]) from error
    if root.tag != "VRTDataset":
        raise ItemError("undecodable", f"it is no VRT but a {root.tag!r}"[:300])
    return root


def _check(element: ET.Element, allowed: set[str]) -> None:
    """Refuse whatever is not understood."""
    extra = set(element.attrib) - _ATTRIBUTES.get(element.tag, set())
    other = {child.tag for child in element} - allowed
    for name in sorted(extra | other):
        raise _refused(f"its {element.tag} has {name[:60]!r}, which is not read")


def _sources(band: ET.Element, places: _Places) -> Iterator[Source]:
    for element in band:
        if element.tag in {"SimpleSource", "ComplexSource"}:
            _check(element, _IN_SOURCE)
            yield _source(element, places)


def _source(element: ET.Element, places: _Places) -> Source:
    name = element.find("SourceFilename")
    if name is None or not name.text:
        raise ValueError("a source without a file")
    _check(name, set())
    path = places.find(name.text, name.get("relativeToVRT", "0"))
    source, target = _rect(element.find("SrcRect")), _rect(element.find("DstRect"))
    if source[2:] != target[2:]:
        raise _refused("it resamples a source; write it with gdal_translate instead")
    band = element.findtext("SourceBand") or "1"
    if not band.isdecimal():
        raise _refused(f"it reads {band[:20]!r} of a source, which is no band")
    return Source(
        path=path,
        band=int(band),
        row=source[0],
        col=source[1],
        box=target,
        nodata=_number(element.findtext("NODATA")),
    )


def _rect(element: ET.Element | None) -> Box:
    if element is None:
        raise _refused("it has a source without SrcRect and DstRect")
    found = [float(element.attrib[name]) for name in ("yOff", "xOff", "ySize", "xSize")]
    rounded = [round(value) for value in found]
    if any(abs(one - other) > _SLACK for one, other in zip(found, rounded, strict=True)):
        raise _refused("it puts a source between pixels; write it with gdal_translate")
    row, col, height, width = rounded
    if min(height, width) < 1:
        raise ValueError("a source of no size")
    return row, col, height, width


def _dtype(band: ET.Element) -> str:
    name = band.get("dataType", "Byte")
    return _DTYPES.get(name, name)


def _color(band: ET.Element) -> SimpleNamespace:
    name = (band.findtext("ColorInterp") or "undefined").lower()
    if name == "palette":
        raise _refused("it has a palette; name its sources themselves")
    return SimpleNamespace(name=name)


def _side(text: str) -> int:
    side = int(text)
    if side < 1:
        raise ValueError(f"a side of {side} px")
    return side


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)


def _parse_crs(text: str | None) -> CRS | None:
    if not text or not text.strip():
        return None
    # Other text could be the name of a file, or of a server.
    if _EPSG.fullmatch(text.strip()) or _WKT.match(text.strip()):
        return CRS.from_string(text.strip())
    raise _refused(f"its CRS {text[:60]!r} is neither WKT nor an EPSG code")


def _parse_transform(text: str | None) -> Affine:
    if text is None:
        return Affine.identity()
    return Affine.from_gdal(*(float(part) for part in text.split(",")))


def _parse_points(element: ET.Element) -> tuple[list[GroundControlPoint], CRS | None]:
    points = [
        GroundControlPoint(
            row=float(point.attrib["Line"]),
            col=float(point.attrib["Pixel"]),
            x=float(point.attrib["X"]),
            y=float(point.attrib["Y"]),
            z=float(point.get("Z", "0")),
        )
        for point in element.findall("GCP")
    ]
    return points, _parse_crs(element.get("Projection"))


def _parse_rpcs(root: ET.Element) -> RPC | None:
    for domain in root.findall("Metadata"):
        if domain.get("domain") == "RPC":
            items = {one.get("key", ""): one.text or "" for one in domain.findall("MDI")}
            return RPC.from_gdal(items)
    return None


def _refused(text: str) -> ItemError:
    return ItemError("unsupported", f"the VRT is refused: {text}"[:300])
