"""The figure of an evaluation: confusion, IoU of each class, and reliability, as SVG.

Text that any browser shows, written here: names are escaped, nothing is loaded and no
script runs.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARGIN: Final = 24
_ROW: Final = 20
_CELL: Final = 30
_SMALLEST_CELL: Final = 4
_NAMES: Final = 150
_BARS: Final = 260
_SIDE: Final = 300
_MOST_NAMES: Final = 60
"""Of more classes neither names nor numbers can be read."""

_MATRIX: Final = 900
_LONGEST_NAME: Final = 22
_DARK: Final = 0.55
_FAINT: Final = 0.0025
"""A smaller share is as white as none."""

_PERCENT: Final = 100
_STYLE: Final = (
    "text{font:12px sans-serif;fill:#222}.t{font-weight:bold;font-size:14px}"
    ".s{font-size:10px}.e{text-anchor:end}.m{text-anchor:middle}.w{fill:#fff}"
)


def draw_evaluation(found: dict[str, Any]) -> str:
    """Draw what ``evaluation.json`` holds.

    Args:
        found: As ``jobs.evaluation`` describes a run.

    Returns:
        An SVG document, the same for the same numbers.
    """
    classes = found["classes"]
    cell = max(_SMALLEST_CELL, min(_CELL, _MATRIX // (len(classes) + 1)))
    matrix = cell * (len(classes) + 1)
    bars_left = _MARGIN + _NAMES + matrix + 2 * _MARGIN
    side_left = bars_left + _NAMES + _BARS + 3 * _MARGIN
    top = 3 * _MARGIN
    row = cell if len(classes) > _MOST_NAMES else _ROW
    width = side_left + _SIDE + 2 * _MARGIN
    height = top + max(matrix + _NAMES, row * len(classes) + _NAMES, _SIDE + _NAMES)
    body = [
        *_title(found),
        *_confusion(found, _MARGIN + _NAMES, top, cell),
        *_bars(classes, bars_left + _NAMES, top, row),
        *_reliability(found["calibration"]["bins"], side_left, top),
    ]
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size}>',
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#fff"/>',
            *body,
            "</svg>\n",
        ]
    )


def _title(found: dict[str, Any]) -> Iterator[str]:
    measures = found["measures"]
    names = {"mean_iou": "mIoU", "accuracy": "pixel accuracy", "mean_f1": "F1"}
    names |= {"mean_boundary_f1": "boundary F1", "calibration_error": "ECE"}
    numbers = ", ".join(f"{text} {_shown(measures[name])}" for name, text in names.items())
    pixels = found["pixels"]["pixels"] / 1e6
    text = f"{found['images']} images, {pixels:.1f} M pixels: {numbers}"
    yield _text(_MARGIN, _MARGIN + 4, text, "t")


def _confusion(found: dict[str, Any], left: int, top: int, cell: int) -> Iterator[str]:
    """Rows of the truth, each as shares of its pixels."""
    yield _text(left, top - 10, "given, of what is true (rows)", "t")
    classes, columns = found["classes"], [one["name"] for one in found["classes"]]
    named = len(classes) <= _MOST_NAMES
    for index, (info, counts) in enumerate(zip(classes, found["confusion"], strict=True)):
        row = top + index * cell
        if named:
            yield _text(left - 6, row + cell * 0.65, _short(info["name"]), "e")
        for column, count in enumerate(counts):
            part = count / info["true"] if info["true"] else 0.0
            if part > _FAINT:
                yield from _share(left + column * cell, row, cell, part, named=named)
    size = cell * len(classes)
    yield (
        f'<rect x="{left}" y="{top}" width="{size + cell}" height="{size}" '
        'fill="none" stroke="#888"/>'
    )
    for column, name in enumerate([*columns, "no class"] if named else []):
        at, below = left + (column + 0.6) * cell, top + size + 8
        yield (
            f'<text class="e" x="{at:.1f}" y="{below}" '
            f'transform="rotate(-60 {at:.1f} {below})">{escape(_short(name))}</text>'
        )


def _share(left: int, top: int, cell: int, part: float, *, named: bool) -> Iterator[str]:
    shade = round(255 - 205 * part)
    yield (
        f'<rect x="{left}" y="{top}" width="{cell}" height="{cell}" '
        f'fill="rgb({shade},{min(255, shade + 25)},255)"/>'
    )
    if named and round(part * _PERCENT):
        kind = "s m w" if part > _DARK else "s m"
        text = f"{part * _PERCENT:.0f}"
        yield _text(left + cell / 2, top + cell * 0.62, text, kind)


def _bars(classes: list[dict[str, Any]], left: int, top: int, row: int) -> Iterator[str]:
    yield _text(left, top - 10, "IoU", "t")
    for index, info in enumerate(classes):
        at, iou = top + index * row, info["iou"]
        length = (iou or 0.0) * _BARS
        yield (
            f'<rect x="{left}" y="{at + 1}" width="{length:.1f}" '
            f'height="{max(1, row - 4)}" fill="{info["color"]}" stroke="#555"/>'
        )
        if len(classes) <= _MOST_NAMES:
            yield _text(left - 6, at + row * 0.65, _short(info["name"]), "e")
            yield _text(left + length + 5, at + row * 0.65, _shown(iou), "s")
    bottom = top + row * len(classes)
    yield f'<line x1="{left}" y1="{top}" x2="{left}" y2="{bottom}" stroke="#888"/>'


def _reliability(bins: list[dict[str, Any]], left: int, top: int) -> Iterator[str]:
    """Accuracy over confidence, bin by bin; the line is what it should be."""
    yield _text(left, top - 10, "right, of what is so sure", "t")
    bottom = top + _SIDE
    most = max(one["pixels"] for one in bins) or 1
    for one in bins:
        if not one["pixels"]:
            continue
        start, width = one["from"] * _SIDE, max(4.0, (one["to"] - one["from"]) * _SIDE - 1)
        tall, share = one["accuracy"] * _SIDE, one["pixels"] / most
        yield (
            f'<rect x="{left + start:.1f}" y="{bottom - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}" fill="#3b7dd8" fill-opacity="{0.25 + 0.75 * share:.2f}"/>'
        )
    yield (
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" '
        'stroke="#888"/>'
    )
    yield (
        f'<line x1="{left}" y1="{bottom}" x2="{left + _SIDE}" y2="{top}" stroke="#222" '
        'stroke-dasharray="4 3"/>'
    )
    for tick in (0.0, 0.5, 1.0):
        yield _text(left + tick * _SIDE, bottom + 16, f"{tick:g}", "s m")
        yield _text(left - 5, bottom - tick * _SIDE + 4, f"{tick:g}", "s e")
    yield _text(left + _SIDE / 2, bottom + 34, "confidence; darker bins hold more", "m")


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _short(name: str) -> str:
    printable = "".join(letter if letter.isprintable() else "?" for letter in name)
    if len(printable) <= _LONGEST_NAME:
        return printable
    return f"{printable[: _LONGEST_NAME - 1]}…"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
