"""What is written of one image besides its mask: sizes, counts and how sure it is.

Sums are of whole numbers, so that they are exact: a confidence counts in 255ths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.job import Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from jobs.job import Result

IGNORE: Final = 254
NODATA: Final = 255

_VALUES: Final = 256
_UNSURE: Final = 128
"""The least confidence, in 255ths, that is 0.5 or more."""

_PIXELS_AT_ONCE: Final = 2**20


def find_levels(floors: Sequence[float]) -> NDArray[np.uint8]:
    """The least confidence in 255ths that each value of a mask keeps, uint8 (256,)."""
    levels = np.zeros(_VALUES, dtype=np.uint8)
    shares = np.arange(_VALUES) / 255
    for index, floor in enumerate(floors):
        levels[index] = int(np.searchsorted(shares, floor))
    return levels


def ignore_unsure(
    mask: NDArray[np.uint8], confidence: NDArray[np.uint8], levels: NDArray[np.uint8]
) -> None:
    """Write 254 over the pixels that are less sure than ``find_levels`` says, in place."""
    height, width = mask.shape
    step = max(1, _PIXELS_AT_ONCE // width)
    for top in range(0, height, step):
        rows = mask[top : top + step]
        np.putmask(rows, confidence[top : top + step] < levels[rows], IGNORE)


def describe(result: Result, classes: int) -> dict[str, Any]:
    """The columns of a row that hold numbers, of so many classes, and where it is from."""
    found = result.segmentation
    height, width = found.mask.shape
    origin = result.origin or Origin(height=height, width=width)
    pairs = _count_pairs(found.mask, found.confidence)
    with_class, sums = pairs[:classes], pairs[:classes] @ np.arange(_VALUES)
    counts = with_class.sum(axis=1)
    with_data = with_class.sum(axis=0) + pairs[IGNORE]
    return {
        "uri": result.item.uri,
        "key": result.item.key,
        "etag": result.item.etag,
        "height": height,
        "width": width,
        "image_height": origin.height,
        "image_width": origin.width,
        "orientation": origin.orientation,
        "format": origin.format,
        "frames": origin.frames,
        "sidecars": [
            {"key": key, "value": text} for key, text in sorted(origin.sidecars.items())
        ],
        "class_pixels": counts.tolist(),
        "class_confidence": [_mean(*one) for one in zip(sums, counts, strict=True)],
        "mean_confidence": _mean(sums.sum(), counts.sum()),
        "uncertain_share": _share(with_data[:_UNSURE].sum(), with_data.sum()),
        "mean_entropy": None if found.entropy is None else found.entropy.mean,
        "ignored_pixels": int(pairs[IGNORE].sum()),
    }


def count_pixels(row: dict[str, Any]) -> tuple[int, int]:
    """Pixels of a row that are done, with a class or ignored, and those of nodata."""
    done = sum(row["class_pixels"]) + row["ignored_pixels"]
    return done, row["height"] * row["width"] - done


def _count_pairs(mask: NDArray[np.uint8], sure: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Pixels of each value and each confidence, (256, 256)."""
    values, sure = mask.reshape(-1), sure.reshape(-1)
    total = np.zeros(_VALUES**2, dtype=np.int64)
    for start in range(0, values.size, _PIXELS_AT_ONCE):
        # Counting makes eight bytes of each.
        part = slice(start, start + _PIXELS_AT_ONCE)
        pairs = values[part].astype(np.uint16) << 8 | sure[part]
        total += np.bincount(pairs, minlength=_VALUES**2)
    return total.reshape(_VALUES, _VALUES)


def _mean(sum_of_255ths: int, count: int) -> float | None:
    return _share(sum_of_255ths, 255 * count)


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None
