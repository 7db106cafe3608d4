"""The settings of a truth, which the evaluate job holds masks against."""

from __future__ import annotations

import re
from typing import Any, Final

from jobs.setting_kinds import (
    TEXT,
    Kind,
    Setting,
    choice,
    parse_list,
    read_list,
    read_number,
)
from jobs.truth import FORMS

_PERCENT: Final = re.compile(r"\d+(?:\.\d+)?%")


def _parse_distance(text: str) -> float | str:
    return text if _PERCENT.fullmatch(text) else float(text)


def _read_distance(value: Any) -> float | str:  # noqa: ANN401
    return _parse_distance(value) if isinstance(value, str) else read_number(value)


NUMBERS: Final = Kind(
    allowed="whole numbers such as 11,255", parse=parse_list(int), read=read_list(int)
)
DISTANCE: Final = Kind(
    allowed="pixels such as 3, or a share of the diagonal such as 0.75%",
    parse=_parse_distance,
    read=_read_distance,
)
TRUTH_SETTINGS: Final = {
    "truth": Setting(
        kind=TEXT,
        about="What is to be seen: a folder of masks, a data set, Parquet or GeoTIFFs.",
    ),
    "truth_format": Setting(
        kind=choice(*FORMS),
        default=FORMS[0],
        about="Form of the truth; auto goes by what lies there.",
    ),
    "truth_suffix": Setting(
        kind=TEXT, about="What masks have behind an image's name, e.g. _L or _mask.png."
    ),
    "truth_split": Setting(
        kind=TEXT, default="val", about="Part of a VOC or Cityscapes layout."
    ),
    "truth_column": Setting(
        kind=TEXT,
        about="Column of masks in Parquet.  [default: mask, label, annotation, labels or "
        "segmentation]",
    ),
    "truth_classes": Setting(
        kind=TEXT,
        about="Classes of the truth's ids or colours, e.g. 3=0,7=road,#9b9b9b=ignore or "
        "*=ignore; or a JSON file.  [default: the bundle's]",
    ),
    "truth_ignore": Setting(
        kind=NUMBERS, about="Ids of the truth that do not count, besides 254 and 255."
    ),
    "boundary_tolerance": Setting(
        kind=DISTANCE,
        default="0.75%",
        about="What a boundary may be off by: px, or a share of the diagonal.",
    ),
}

TRUTH: Final = {
    "truth": "where",
    "truth_format": "form",
    "truth_suffix": "suffix",
    "truth_split": "split",
    "truth_column": "column",
    "truth_classes": "classes",
    "truth_ignore": "ignore",
    "boundary_tolerance": "tolerance",
}
"""Settings of a truth, and what ``jobs.truth`` calls them."""
