"""Names and colours of classes, where programs that read GeoTIFF look for them.

A GeoTIFF itself has no place for names, so GDAL reads them from a file beside it
(``.aux.xml``, "persistent auxiliary metadata"): category names, and a raster
attribute table that tells the value, name and colour of each class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.bundle import ClassInfo

_WHOLE, _TEXT = "0", "2"
_FIELDS: Final = (
    ("Value", _WHOLE, "5"),
    ("Class", _TEXT, "2"),
    ("Red", _WHOLE, "6"),
    ("Green", _WHOLE, "7"),
    ("Blue", _WHOLE, "8"),
)
"""Name, GDAL's type (GDALRATFieldType) and usage (GDALRATFieldUsage)."""


def class_table(classes: Sequence[ClassInfo]) -> bytes:
    """The file to lie beside a COG of masks."""
    root = Element("PAMDataset")
    band = SubElement(root, "PAMRasterBand", band="1")
    names = SubElement(band, "CategoryNames")
    for one in classes:
        SubElement(names, "Category").text = one.name
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    for index, (name, kind, usage) in enumerate(_FIELDS):
        field = SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", kind), ("Usage", usage)):
            SubElement(field, tag).text = text
    for index, one in enumerate(classes):
        row = SubElement(table, "Row", index=str(index))
        for value in (index, one.name, *one.color):
            SubElement(row, "F").text = str(value)
    indent(root)
    data: bytes = tostring(root, encoding="utf-8", xml_declaration=False)
    return data + b"\n"
