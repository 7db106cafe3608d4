"""Blend weights of a tile along one axis; over all tiles they sum to one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeplab.tiles import Axis, Tiling


def compute_ramp(axis: Axis, index: int) -> NDArray[np.float32]:
    """Compute the weights of one tile, float32 (tile,), 0 to 1.

    At each pixel of the raster the weights of the tiles that cover it sum to one.
    Past the raster's edge they mean nothing.

    Args:
        axis: All tiles along the axis.
        index: Which of them.
    """
    if axis.tiling.blend == "crop":
        return _crop(axis, index)
    window = _window(axis.tiling)
    total = np.zeros_like(window)
    start = index * axis.stride
    # In the order of the grid, so that all tiles of a pixel find the same total.
    for other in axis.covering(start, start + axis.tile):
        shift = (other - index) * axis.stride
        inner = slice(max(0, shift), min(axis.tile, axis.tile + shift))
        outer = slice(max(0, -shift), min(axis.tile, axis.tile - shift))
        total[inner] += window[outer]
    return (window / total).astype(np.float32)


def _crop(axis: Axis, index: int) -> NDArray[np.float32]:
    """One where this tile's centre is the nearest, zero elsewhere."""
    weights = np.zeros(axis.tile, dtype=np.float32)
    first, stop = axis.nearest_to(index)
    start = index * axis.stride
    weights[first - start : stop - start] = 1
    return weights


def _window(tiling: Tiling) -> NDArray[np.float64]:
    """What a tile counts for at each of its pixels, above zero."""
    if tiling.blend == "mean":
        return np.ones(tiling.tile)
    centres = np.arange(tiling.tile) + 0.5  # of pixels: the edge itself would be zero
    window: NDArray[np.float64] = np.sin(np.pi * centres / tiling.tile) ** 2
    return window
