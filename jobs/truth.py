"""What the truth of an evaluation is: where it lies, its form, and its classes.

All of it changes results. What is asked for is completed once, before a run is planned:
``auto`` becomes a form, and the class map the JSON of ``jobs.truth_map``; so a run, and
a retry of it, always judges by the same rule.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

Form = Literal["auto", "folder", "voc", "cityscapes", "parquet", "raster"]

FORMS: Final[tuple[Form, ...]] = get_args(Form)

CELL: Final = 512
"""Side in px of the squares of a raster whose boundaries are compared, each by itself:
blocks hold whole ones, so that the cut changes no measure."""

_MOST_PIXELS: Final = 1000.0
_LARGEST_ID: Final = 2**16 - 1
_HUNDRED: Final = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """The truth, and how masks are held against it."""

    where: str = ""
    """Absolute location; empty where nothing is judged."""

    form: Form = "auto"

    suffix: str | None = None
    """What a mask's name has behind the image's, e.g. ``_L`` or ``_mask.png``."""

    split: str = "val"
    """The part of a data set with a layout of its own."""

    column: str | None = None
    """The column of masks of a table; None for one with a usual name."""

    classes: str = ""
    """How ids or colours become the bundle's classes; empty where they are equal."""

    ignore: tuple[int, ...] = ()
    """Ids that are not counted, besides 254 and 255."""

    tolerance: float | str = "0.75%"
    """What a boundary may be off by: pixels, or a share of the diagonal."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        for one in self.ignore:
            if not 0 <= one <= _LARGEST_ID:
                raise InputError(f"truth_ignore must be 0 to {_LARGEST_ID}, got {one}")
        value, most = self._tolerance
        if not 0 <= value <= most:
            unit = "%" if isinstance(self.tolerance, str) else " px"
            raise InputError(
                f"boundary_tolerance must be 0 to {most:g}{unit}, got {value:g}{unit}"
            )

    @property
    def _tolerance(self) -> tuple[float, float]:
        if isinstance(self.tolerance, str):
            return float(self.tolerance.removesuffix("%")), _HUNDRED
        return self.tolerance, _MOST_PIXELS

    def tolerance_px(self, height: int, width: int) -> float:
        """Pixels that a boundary may be off by in an image of a size."""
        value, _ = self._tolerance
        if isinstance(self.tolerance, str):
            return min(value / _HUNDRED * math.hypot(height, width), _MOST_PIXELS)
        return value

    def results(self) -> dict[str, Any] | None:
        """What is not as it is by itself, as JSON gives it back; None where all is."""
        plain = asdict(Truth())
        found = {k: v for k, v in asdict(self).items() if v != plain[k]}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()} or None

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> Truth:
        """Of what ``results`` gave."""
        names = {one.name for one in fields(cls)}
        found: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (given or {}).items()
            if name in names
        }
        return cls(**found)
