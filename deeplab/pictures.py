"""Pictures to be segmented, cut into strips of tiles, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deeplab.cut import Cutter
from deeplab.tiles import Region, TileGrid, Window

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from deeplab.results import Found
    from deeplab.tiles import Tiling

NODATA = 255
"""Mask value where there is no data."""

STRIP = 4096
"""Most columns that are blended at once: sums are held for K classes, a tile's rows
and so many columns."""


ENTROPY_SCALE = 10_000
"""What stands for the greatest entropy, 1, in whole numbers."""


class Entropy(NamedTuple):
    """Of all the pixels of a picture that hold data."""

    total: int
    """Sum of theirs, in parts of ``ENTROPY_SCALE``."""

    pixels: int
    """How many they are."""

    @property
    def mean(self) -> float | None:
        """0 to 1; None where no pixel holds data."""
        return self.total / (ENTROPY_SCALE * self.pixels) if self.pixels else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Classes of a window of pixels."""

    mask: NDArray[np.uint8]
    """uint8 (H, W): class ids, 255 where not valid."""

    confidence: NDArray[np.uint8]
    """uint8 (H, W): 255 times the winner's probability, 0 where not valid."""

    probabilities: NDArray[np.uint8] | None = None
    """uint8 (chosen, H, W): the same of each class that was asked for, which for the
    winner is the confidence; None where none was."""

    entropy: Entropy | None = None
    """Of the pixels that are valid, all in all; None where it was not asked for."""


class Wanted(NamedTuple):
    """What is wanted besides classes and confidence; it changes neither."""

    probabilities: tuple[int, ...] = ()
    """Ids of classes whose probabilities are wanted."""

    entropy: bool = False
    """Whether that of all probabilities is."""


NOTHING = Wanted()


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image, or a raster's region, to be segmented."""

    pixels: NDArray[np.uint8]
    """uint8 (bands, H, W) over ``region.read``."""

    valid: NDArray[np.bool_]
    """bool (H, W), False where there is no data."""

    region: Region | None = None
    """What the pixels are of a larger raster; None for a whole image."""

    size: tuple[int, int] | None = None
    """Rows and columns of an image's result; None for those of its pixels."""


def cut_picture(picture: Picture, tiling: Tiling) -> list[Cutter]:
    """Cut a picture into strips that are segmented one by one.

    Raises:
        ValueError: Windows or shapes do not fit.
    """
    pixels, valid = picture.pixels, picture.valid
    region, grid = _lay(picture, tiling)
    _check_region(region, grid, valid.shape)
    size = picture.size
    if size is not None and (picture.region is not None or min(size) < 1):
        raise ValueError(
            f"size must be two positive numbers and belongs to a whole image, got {size}"
        )
    if size == valid.shape:
        size = None
    # Strips that are interpolated each for itself would show where they meet.
    strips = [region] if size is not None else _strips(region)
    return [
        Cutter(grid=grid, region=strip, pixels=pixels, valid=valid, size=size)
        for strip in strips
    ]


def _lay(picture: Picture, tiling: Tiling) -> tuple[Region, TileGrid]:
    """What is wanted of a picture, and its tiles: they fit it where it is an image."""
    region = picture.region or Region.whole(*picture.valid.shape)
    grid = TileGrid(
        height=region.height,
        width=region.width,
        tiling=tiling,
        fitted=picture.region is None,
    )
    return region, grid


def _strips(region: Region) -> Iterator[Region]:
    """Cut a wide core into strips: the result is the same, the memory bounded."""
    core = region.core
    for col in range(core.col, core.stop_col, STRIP):
        width = min(STRIP, core.stop_col - col)
        yield replace(region, core=replace(core, col=col, width=width))


def count_tiles(picture: Picture, tiling: Tiling) -> tuple[tuple[int, int], int]:
    """Rows and columns of a picture's tiles, and how many touch what is wanted of it.

    Those without data count as well.
    """
    region, grid = _lay(picture, tiling)
    core = region.core
    rows = grid.rows.touching(core.row, core.stop_row)
    columns = grid.columns.touching(core.col, core.stop_col)
    return grid.shape, len(rows) * len(columns)


def mark_nodata(cutter: Cutter, found: Found) -> Segmentation:
    """Write 255 and 0 over classes and confidence where there is no data."""
    mask, confidence, probabilities, undecided = found
    core, read = cutter.region.core, cutter.region.read
    top, left = core.row - read.row, core.col - read.col
    valid = cutter.valid[top : top + core.height, left : left + core.width]
    invalid = ~(valid if cutter.size is None else nearest(valid, cutter.size))
    np.putmask(mask, invalid, NODATA)
    for plane in (confidence, *probabilities):
        np.putmask(plane, invalid, 0)
    return Segmentation(
        mask=mask,
        confidence=confidence,
        probabilities=probabilities if len(probabilities) else None,
        entropy=None if undecided is None else _add_up(undecided, ~invalid),
    )


def _add_up(undecided: NDArray[np.int16], valid: NDArray[np.bool_]) -> Entropy:
    total = undecided.sum(where=valid, dtype=np.int64)
    return Entropy(total=int(total), pixels=int(valid.sum()))


def nearest(valid: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Validity at another size: that of the nearest pixel."""
    rows, cols = (
        ((np.arange(to) * 2 + 1) * of // (2 * to))
        for of, to in zip(valid.shape, size, strict=True)
    )
    found: NDArray[np.bool_] = valid[rows[:, None], cols]
    return found


def beside(parts: list[Segmentation]) -> Segmentation:
    """Join strips from left to right."""
    if len(parts) == 1:
        return parts[0]
    planes = [part.probabilities for part in parts if part.probabilities is not None]
    sums = [part.entropy for part in parts if part.entropy is not None]
    return Segmentation(
        mask=np.hstack([part.mask for part in parts]),
        confidence=np.hstack([part.confidence for part in parts]),
        probabilities=np.concatenate(planes, axis=2) if planes else None,
        entropy=Entropy(*map(sum, zip(*sums, strict=True))) if sums else None,
    )


def _check_region(region: Region, grid: TileGrid, shape: tuple[int, ...]) -> None:
    core, read = region.core, region.read
    raster = Window(row=0, col=0, height=region.height, width=region.width)
    if core.height < 1 or core.width < 1 or not _holds(raster, core):
        raise ValueError(f"core must lie in the raster, got {core} in {raster}")
    if not _holds(read, grid.reach(core)) or not _holds(raster, read):
        raise ValueError(
            f"read must hold the core's tiles, {grid.reach(core)}, and lie in the raster, "
            f"got {read}; use TileGrid.reach"
        )
    if shape != (read.height, read.width):
        raise ValueError(
            f"pixels must cover region.read, {(read.height, read.width)}, got {shape}"
        )


def _holds(outer: Window, inner: Window) -> bool:
    return (
        outer.row <= inner.row
        and outer.col <= inner.col
        and inner.stop_row <= outer.stop_row
        and inner.stop_col <= outer.stop_col
    )
