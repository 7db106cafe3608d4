"""Trees: crowns of many shapes, standing where the ground lets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from jobs.scene_canvas import Canvas

    Bytes = NDArray[np.uint8]

_SITE = 11  # pixels between possible tree sites
_RADII = range(3, 19)
_SHAPES = 6  # crowns of each radius


def grow(rng: Generator, canvas: Canvas, ids: NDArray[np.int32], heights: Bytes) -> Bytes:
    """Stamp crowns where materials let trees stand, raising ``heights`` with them.

    Args:
        rng: Where every choice comes from.
        canvas: Materials, and the trees that were planted one by one.
        ids: Material of each pixel (height, width).
        heights: Pixels above the ground (height, width); changed in place.

    Returns:
        Hue of the crown on top (height, width), 1 conifer to 255 broadleaf; 0
        where there is none.
    """
    y, x = _sites(rng, *ids.shape)
    canopy = np.array([material.canopy for material in canvas.materials])
    kinds = ids[y, x]
    wild = rng.random(y.size) < canopy[kinds]
    planted = np.array(canvas.planted, np.int64).reshape(-1, 3)
    trees = np.concatenate((np.stack((y, x, kinds), axis=1)[wild], planted))
    trees = trees[heights[trees[:, 0], trees[:, 1]] == 0]
    size = np.array([material.crown for material in canvas.materials])[trees[:, 2]]
    size *= 1.0 + 0.22 * rng.normal(size=len(trees))
    leaf = np.array([material.leaf for material in canvas.materials])[trees[:, 2]]
    hue = np.clip(255.0 * (leaf + 0.13 * rng.normal(size=len(trees))), 1, 255)
    radius = np.clip(np.rint(size), _RADII[0], _RADII[-1])
    shape = rng.integers(_SHAPES, size=len(trees))
    bank = {r: [_crown(rng, r) for _ in range(_SHAPES)] for r in _RADII}
    hues = np.zeros_like(heights)
    columns = np.stack((trees[:, 0], trees[:, 1], radius, shape, hue), axis=1)
    for row, col, r, s, h in columns.astype(int).tolist():
        _stamp(heights, hues, bank[r][s], (row - r - 1, col - r - 1), h)
    return hues


def _sites(
    rng: Generator, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of a jittered grid."""
    rows, cols = -(-height // _SITE), -(-width // _SITE)
    jitter = rng.integers(0, _SITE, size=(2, rows, cols))
    y = (jitter[0] + _SITE * np.arange(rows)[:, None]).ravel()
    x = (jitter[1] + _SITE * np.arange(cols)).ravel()
    inside = (y < height) & (x < width)
    return y[inside], x[inside]


def _crown(rng: Generator, radius: int) -> Bytes:
    """Height above ground of one tree, 0 outside its crown: (2 r + 3, 2 r + 3)."""
    reach = radius + 1
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float64)
    turn = np.arctan2(y, x)
    edge = np.full_like(turn, float(radius))
    for order in (2, 3, 5):
        edge += radius * 0.09 * np.sin(order * turn + rng.uniform(0.0, 2.0 * np.pi))
    dome = np.sqrt(np.clip(1.0 - (np.hypot(x, y) / edge) ** 2, 0.0, None))
    bumps = rng.normal(0.0, 0.06 * radius, size=dome.shape)
    height = 5.0 + 0.5 * radius + 1.3 * radius * dome + bumps
    return np.where(dome > 0, np.clip(height, 2.0, 60.0), 0.0).astype(np.uint8)


def _stamp(
    heights: Bytes, hues: Bytes, crown: Bytes, corner: tuple[int, int], hue: int
) -> None:
    """Put one crown on the map where it is the highest thing."""
    row, col = corner
    top, left = max(0, row), max(0, col)
    window = slice(top, row + crown.shape[0]), slice(left, col + crown.shape[1])
    below = heights[window]
    part = crown[top - row :, left - col :][: below.shape[0], : below.shape[1]]
    higher = part > below
    np.copyto(below, part, where=higher)
    np.copyto(hues[window], hue, where=higher)
