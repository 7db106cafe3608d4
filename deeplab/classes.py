"""Lists of classes: those of published data sets, text files, or numbers alone.

A list is a text with one class a line, ``name`` or ``name #rrggbb``; the line's
place is the class's id. The lists of data sets lie in ``class_sets/`` in that same
form: the names and colours that their publishers give, in the order of their ids.
"""

from __future__ import annotations

import importlib.resources
import re
from pathlib import Path
from typing import Final

import numpy as np

from deeplab.bundle import MAX_CLASSES, ClassInfo

CLASS_SETS: Final = ("ade20k", "cityscapes", "isaid", "loveda", "potsdam", "voc")
"""Lists that can be asked for by name."""

_LINE: Final = re.compile(r"(?P<name>[^#]*[^#\s])(?:\s+#(?P<color>\S*))?")
_COLOR: Final = re.compile(r"[0-9a-fA-F]{6}")


def read_classes(source: str) -> tuple[ClassInfo, ...]:
    """Read a list of classes.

    Args:
        source: One of ``CLASS_SETS``, or the path of a text file.

    Raises:
        ValueError: There is no such list, or it cannot be understood.
    """
    if source in CLASS_SETS:
        file = importlib.resources.files("deeplab") / "class_sets" / f"{source}.txt"
        return parse_classes(file.read_text(encoding="utf-8"), source)
    try:
        text = Path(source).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(
            f"classes must be a text file or one of {', '.join(CLASS_SETS)}, got "
            f"{source!r} ({error.strerror or error})"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{source} must be text in UTF-8, with one class a line"
        ) from error
    return parse_classes(text, source)


def parse_classes(text: str, source: str) -> tuple[ClassInfo, ...]:
    """Read the lines of a list; classes without a colour get one.

    Args:
        text: One class a line; lines that are empty do not count.
        source: What to call the list in errors.

    Raises:
        ValueError: A line is neither ``name`` nor ``name #rrggbb``, or there is none.
    """
    found: list[tuple[str, tuple[int, int, int] | None]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line.strip())
        color = match and match["color"]
        if match is None or not (color is None or _COLOR.fullmatch(color)):
            raise ValueError(
                f"{source}, line {number}: a class is a name, or a name and a colour as "
                f"in 'road #804080', got {line.strip()!r}"
            )
        found.append((match["name"], _parse_color(color) if color else None))
    if not found:
        raise ValueError(f"{source} must have one class a line, got no line")
    taken = tuple(color for _, color in found if color is not None)
    spare = iter(distinct_colors(len(found) - len(taken), taken))
    return tuple(ClassInfo(name=name, color=color or next(spare)) for name, color in found)


def number_classes(count: int) -> tuple[ClassInfo, ...]:
    """Classes of which nothing is known: ``class 0``, ``class 1`` and so on."""
    colors = distinct_colors(count)
    return tuple(
        ClassInfo(name=f"class {i}", color=color) for i, color in enumerate(colors)
    )


def distinct_colors(
    count: int, taken: tuple[tuple[int, int, int], ...] = ()
) -> list[tuple[int, int, int]]:
    """Colours that are easily told apart, the same ones each time.

    Each is, of a grid of colours, the one farthest from black, white, those that are
    taken and those before it. Distances are those of Oklab, where they are about as
    large as they look.
    """
    count = min(count, MAX_CLASSES)  # more classes than that are refused elsewhere
    steps = np.linspace(0, 255, 9).round()
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    places = _oklab(grid)
    start = _oklab(np.array([(0, 0, 0), (255, 255, 255), *taken]))
    # Rounded, so that another processor's last bits choose no other colour.
    gaps = np.linalg.norm(places[:, None] - start, axis=-1).min(1).round(6)
    colors = []
    for _ in range(count):
        best = int(gaps.argmax())
        red, green, blue = (int(part) for part in grid[best])
        colors.append((red, green, blue))
        gaps = np.minimum(gaps, np.linalg.norm(places - places[best], axis=-1).round(6))
    return colors


def _parse_color(digits: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(digits)
    return red, green, blue


def _oklab(rgb: np.ndarray) -> np.ndarray:
    """Map sRGB 0 to 255 (N, 3) to Oklab: lightness, green to red, blue to yellow."""
    part = rgb / 255
    light = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)  # noqa: PLR2004
    cones = np.cbrt(light @ _TO_CONES.T)
    mapped: np.ndarray = cones @ _TO_LAB.T
    return mapped


_TO_CONES: Final = np.array(
    [
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    ]
)
_TO_LAB: Final = np.array(
    [
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    ]
)
