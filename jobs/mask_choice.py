"""What is written of each image, and which of its pixels are to be ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from jobs.class_choice import ALL, choose_classes
from jobs.errors import InputError

if TYPE_CHECKING:
    from deeplab.bundle import Bundle

MaskEncoding = Literal["raw", "png"]

MASK_ENCODINGS: Final[tuple[MaskEncoding, ...]] = get_args(MaskEncoding)

_SETTING: Final = "min_confidence"


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """How masks of images are written. All of it changes results."""

    min_confidence: tuple[str, ...] | None = None
    """Least confidence of pixels that keep their class, as ``0.6`` of all classes, or
    ``road=0.7`` of one; None where all keep it."""

    mask_encoding: MaskEncoding = "raw"

    def floors(self, bundle: Bundle) -> tuple[float, ...]:
        """Least confidence of each class, 0 to 1; empty where none was asked for.

        Raises:
            InputError: The bundle has no such class, or a number is out of its range.
        """
        rest, named = None, {}
        for text in self.min_confidence or ():
            name, _, number = (part.strip() for part in text.rpartition("="))
            floor = _read_floor(number, text)
            if name not in {"", ALL}:
                named[name] = floor
            elif rest is not None:
                raise InputError(
                    f"{_SETTING} has two numbers for all classes, got {self._shown}; "
                    "keep one"
                )
            else:
                rest = floor
        if len(named) + (rest is not None) != len(self.min_confidence or ()):
            raise InputError(f"{_SETTING} names a class twice, got {self._shown}; keep one")
        ids = choose_classes(_SETTING, tuple(named), bundle) if named else ()
        found = [rest or 0.0] * len(bundle.classes)
        for index, floor in zip(ids, named.values(), strict=True):
            found[index] = floor
        return tuple(found) if any(found) else ()

    @property
    def _shown(self) -> str:
        return ",".join(self.min_confidence or ())


def keep_floors(floors: list[float] | None) -> tuple[str, ...] | None:
    """``min_confidence`` again, of what ``floors`` gave, e.g. out of a run folder."""
    return tuple(f"{index}={floor!r}" for index, floor in enumerate(floors or ())) or None


def _read_floor(number: str, text: str) -> float:
    try:
        floor = float(number)
    except ValueError:
        floor = -1.0
    if not 0 <= floor <= 1:
        raise InputError(
            f"{_SETTING} must be numbers from 0 to 1, such as 0.6 or road=0.7, got {text!r}"
        )
    return floor
