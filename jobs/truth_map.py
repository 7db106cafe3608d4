"""From ids or colours of a truth to a bundle's classes.

A map is text such as ``3=0,7=road,#9b9b9b=ignore,*=ignore``, or JSON that says the same:
``{"3": 0, "7": "road", "*": "ignore"}``, or a list of classes with colours as labelling
tools write it: ``{"classes": [{"title": "Road", "color": "#de597f"}, ...]}``.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.errors import InputError, ItemError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from deeplab.bundle import Bundle
    from jobs.truth import Truth

IGNORE: Final = 254
"""What is not counted, among a bundle's class ids."""

OTHER: Final = "*"
MAX_ID: Final = 2**16 - 1
_IGNORED: Final = (254, 255)
_UNKNOWN: Final = -1
_COLOR: Final = re.compile(r"#[0-9a-f]{6}")
_SHOWN: Final = 3
_VOID: Final = {"unlabeled", "unlabelled", "void", "ignore"}
"""What tools call pixels that nobody looked at; ignored, where no class is called so."""

_ALLOWED: Final = (
    "truth_classes must be such as 3=0,7=road,*=ignore: an id, #rrggbb or * and then a "
    "class of the bundle or ignore; or that as JSON"
)

CITYSCAPES: Final = {
    7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10,
    24: 11, 25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18,
}  # fmt: skip
"""Ids of Cityscapes' labelIds to its train ids; all others are ignored, as there."""


def canonical_map(text: str, bundle: Bundle) -> str:
    """A map as one line of JSON, always the same for one meaning; empty for none.

    Args:
        text: As a user gave it: pairs, or the text of a JSON file.
        bundle: What has the classes.

    Raises:
        InputError: It makes no sense, or names a class that the bundle has not.
    """
    if not text.strip():
        return ""
    found: dict[str, int] = {}
    for key, value in _pairs(text, bundle):
        name = _key(key)
        if name in found:
            raise InputError(f"truth_classes names {name} twice; keep one")
        found[name] = _class_of(value, bundle)
    if found.get(OTHER, IGNORE) != IGNORE:
        raise InputError("truth_classes may give * to ignore alone; name each id")
    return json.dumps(found, sort_keys=True, separators=(",", ":"))


def _pairs(text: str, bundle: Bundle) -> Iterable[tuple[str, Any]]:
    if not text.lstrip().startswith("{"):
        parts = [part.partition("=") for part in text.split(",")]
        if not all(sign for _, sign, _ in parts):
            raise InputError(f"{_ALLOWED}, got {text!r}")
        return [(key.strip(), value.strip()) for key, _, value in parts]
    try:
        fields: dict[str, Any] = {**json.loads(text)}
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{_ALLOWED}; this is no JSON: {error}") from error
    if isinstance(fields.get("classes"), list):
        return _listed(fields["classes"], bundle)
    return fields.items()


def _listed(classes: list[Any], bundle: Bundle) -> list[tuple[str, Any]]:
    """A tool's list of classes: by their names, or all in the bundle's order."""
    try:
        named = [
            (str(one["color"]), str(one.get("title") or one["name"])) for one in classes
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            "a list of classes must give each a title or name, and a color, got one "
            f"without {error}"
        ) from error
    ids = {info.name.casefold(): index for index, info in enumerate(bundle.classes)}
    void = [one for one in named if one[1].casefold() in _VOID - ids.keys()]
    ignored = [(color, None) for color, _ in void]
    named = [one for one in named if one not in void]
    known = [name for _, name in named if name.casefold() in ids]
    if len(known) == len(named):
        return [*((color, ids[name.casefold()]) for color, name in named), *ignored]
    if not known and len(named) == len(bundle.classes):
        return [*((color, index) for index, (color, _) in enumerate(named)), *ignored]
    unknown = ", ".join(name for _, name in named if name.casefold() not in ids)
    raise InputError(
        f"the bundle has no class {unknown}, and not as many classes as the list; give "
        "truth_classes as #rrggbb=CLASS,..."
    )


def _key(text: str) -> str:
    lower = str(text).strip().lower()
    if lower == OTHER or _COLOR.fullmatch(lower):
        return lower
    if lower.isascii() and lower.isdecimal() and int(lower) <= MAX_ID:
        return str(int(lower))
    raise InputError(f"{_ALLOWED}, got {text!r} for an id, which is 0 to {MAX_ID}")


def _class_of(value: object, bundle: Bundle) -> int:
    names = [info.name for info in bundle.classes]
    text = str(value).strip()
    if value is None or text.lower() == "ignore":
        return IGNORE
    if text in names:
        return names.index(text)
    if not isinstance(value, bool) and text.isascii() and text.isdecimal():
        if int(text) < len(names):
            return int(text)
        if int(text) in _IGNORED:
            return IGNORE
    listed = ", ".join(f"{index} {name}" for index, name in enumerate(names))
    raise InputError(
        f"truth_classes must give classes of the bundle or ignore, got {text!r}; it has "
        f"{listed}"
    )


@dataclass(frozen=True, slots=True)
class ClassMap:
    """A map, ready to be looked up."""

    ids: NDArray[np.int16]
    """(65536,): class, 254, or -1 where there is none."""

    colors: NDArray[np.int64]
    """(n,): colours as numbers, sorted."""

    classes: NDArray[np.int16]
    """(n,): their classes."""

    by_color: bool
    """Whether somebody gave colours, so that palettes are colours and not ids."""

    ignores_others: bool

    def of_ids(self, raw: NDArray[np.uint8 | np.uint16]) -> NDArray[np.uint8]:
        """Class ids of a mask of ids, uint8 of the same shape.

        Raises:
            ItemError: ``wrong_truth``: an id is neither a class nor ignored.
        """
        found = self.ids[raw]
        unknown = found == _UNKNOWN
        if unknown.any():
            values, counts = np.unique(raw[unknown], return_counts=True)
            raise _refusal("id", [str(value) for value in values], counts)
        ids: NDArray[np.uint8] = found.astype(np.uint8)
        return ids

    def of_colors(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class ids of a mask of colours, uint8 (3, H, W), as uint8 (H, W).

        Raises:
            ItemError: ``wrong_truth``: a colour is neither a class's nor ignored.
        """
        red, green, blue = pixels.astype(np.int64)
        values, places = np.unique(red << 16 | green << 8 | blue, return_inverse=True)
        at = np.minimum(np.searchsorted(self.colors, values), self.colors.size - 1)
        found = np.where(self.colors[at] == values, self.classes[at], _UNKNOWN)
        if self.ignores_others:
            found[found == _UNKNOWN] = IGNORE
        unknown = np.flatnonzero(found == _UNKNOWN)
        if unknown.size:
            counts = np.bincount(places.ravel(), minlength=values.size)[unknown]
            raise _refusal("colour", [f"#{values[i]:06x}" for i in unknown], counts)
        ids: NDArray[np.uint8] = found.astype(np.uint8)[places.reshape(red.shape)]
        return ids


def make_map(
    truth: Truth, bundle: Bundle, plain: Mapping[int, int] | None = None
) -> ClassMap:
    """The map of an evaluation.

    Args:
        truth: Its map is one of ``canonical_map``.
        bundle: What has the classes.
        plain: Classes of ids where no map was given; None for the bundle's own ids.
    """
    given: dict[str, int] = json.loads(truth.classes) if truth.classes else {}
    named = {int(key): one for key, one in given.items() if key.isdecimal()}
    colored = {key: one for key, one in given.items() if key.startswith("#")}
    others = IGNORE if OTHER in given or (plain is not None and not named) else _UNKNOWN
    own = {index: index for index in range(len(bundle.classes))}
    ids = np.full(MAX_ID + 1, others, dtype=np.int16)
    ids[list(_IGNORED)] = IGNORE
    for key, one in (named or (own if plain is None else plain)).items():
        ids[key] = one if one < len(bundle.classes) or one == IGNORE else _UNKNOWN
    ids[list(truth.ignore)] = IGNORE
    shades = colored or {
        _hex(info.color): i for i, info in [*enumerate(bundle.classes)][::-1]
    }
    numbers = {int(key[1:], 16): one for key, one in shades.items()}
    return ClassMap(
        ids=ids,
        colors=np.array(sorted(numbers), dtype=np.int64),
        classes=np.array([numbers[key] for key in sorted(numbers)], dtype=np.int16),
        by_color=bool(colored),
        ignores_others=OTHER in given,
    )


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


def _refusal(kind: str, names: list[str], counts: NDArray[np.int64]) -> ItemError:
    shown = ", ".join(
        f"{name} ({count} px)" for name, count in zip(names[:_SHOWN], counts, strict=False)
    )
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ItemError(
        "wrong_truth",
        f"{kind} {shown}{more} is no class; map it with -c truth_classes={names[0]}=CLASS "
        "or =ignore, or *=ignore for all others",
    )
