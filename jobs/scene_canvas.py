"""A drawing surface that remembers materials instead of colours.

Shapes are given in a flat plane of straight lines and right angles. The canvas
turns that plane, bends it gently and draws into one image of material ids, so
neighbouring shapes keep touching each other and roads keep their width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray

    from jobs.scene_materials import Material

    Points = NDArray[np.float64]

_STEP = 24.0  # pixels between the vertices of a bent line


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """Where the flat plane lies in the image: turned, then bent by long waves."""

    center: tuple[float, float]
    """Image (x, y) of the plane's origin."""

    angle: float
    """Direction of the plane's u axis in the image, in radians."""

    waves: Points
    """One row each: wave vector x, y; phase; displacement x, y."""

    @classmethod
    def random(cls, rng: Generator, height: int, width: int) -> Frame:
        """A frame around the middle of an image, never bent so far that it folds."""
        length = rng.uniform(600.0, 1800.0, size=5)
        heading, push = rng.uniform(0.0, 2.0 * np.pi, size=(2, 5))
        reach = length * rng.uniform(0.01, 0.032, size=5)
        waves = np.stack(
            (
                2.0 * np.pi / length * np.cos(heading),
                2.0 * np.pi / length * np.sin(heading),
                rng.uniform(0.0, 2.0 * np.pi, size=5),
                reach * np.cos(push),
                reach * np.sin(push),
            ),
            axis=1,
        )
        angle = float(rng.uniform(-0.7, 0.7))
        return cls(center=(width / 2, height / 2), angle=angle, waves=waves)

    def to_image(self, points: Points) -> Points:
        """Image (x, y) of plane points (u, v), both (N, 2)."""
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        flat = points @ np.array(((cos, sin), (-sin, cos)))
        phase = flat @ self.waves[:, :2].T + self.waves[:, 2]
        bent: Points = flat + np.sin(phase) @ self.waves[:, 3:] + self.center
        return bent

    def direction(self, u: float, v: float) -> float:
        """Direction of the u axis in the image at one point, in radians."""
        (x0, y0), (x1, y1) = self.to_image(np.array(((u - 4.0, v), (u + 4.0, v))))
        return float(np.arctan2(y1 - y0, x1 - x0))


class Canvas:
    """Material ids and heights of a scene under construction."""

    def __init__(self, height: int, width: int, frame: Frame) -> None:
        """Start with material 0 everywhere, at height 0.

        Args:
            height: Rows.
            width: Columns.
            frame: Where the flat plane lies.
        """
        self.height, self.width, self.frame = height, width, frame
        self.ids = Image.new("I", (width, height))
        self.heights = Image.new("L", (width, height))
        self.materials: list[Material] = []
        self.planted: list[tuple[int, int, int]] = []  # row, column, material of a tree
        self._ids = ImageDraw.Draw(self.ids)
        self._heights = ImageDraw.Draw(self.heights)

    def polygon(self, corners: Points, material: Material) -> None:
        """Fill a plane polygon (N, 2)."""
        closed = np.concatenate((corners, corners[:1]))
        outline = self.frame.to_image(_dense(closed))
        if self._shows(outline, 1.0):
            self._ids.polygon(outline.ravel().tolist(), fill=self._add(material))

    def line(self, points: Points, width: float, material: Material) -> None:
        """Draw a plane polyline (N, 2), ``width`` pixels wide."""
        path = self.frame.to_image(_dense(points))
        if self._shows(path, width):
            self._ids.line(
                path.ravel().tolist(),
                fill=self._add(material),
                width=max(1, round(width)),
                joint="curve",
            )

    def dashes(self, points: Points, width: float, material: Material) -> None:
        """Draw every other step of a plane polyline (N, 2)."""
        path = self.frame.to_image(_dense(points, step=14.0))
        if not self._shows(path, width):
            return
        fill, stroke = self._add(material), max(1, round(width))
        for start, stop in zip(path[:-1:2], path[1::2], strict=False):
            self._ids.line((*start.tolist(), *stop.tolist()), fill=fill, width=stroke)

    def plant(self, points: Points, material: Material) -> None:
        """Set one tree of the material at each plane point (N, 2)."""
        kind = self._add(material)
        for x, y in np.floor(self.frame.to_image(points)).astype(int).tolist():
            if 0 <= x < self.width and 0 <= y < self.height:
                self.planted.append((y, x, kind))

    def slab(self, outline: Points, material: Material, height: int) -> None:
        """Fill an image polygon (N, 2) and raise it ``height`` pixels."""
        if self._shows(outline, 1.0):
            corners = outline.ravel().tolist()
            self._ids.polygon(corners, fill=self._add(material))
            self._heights.polygon(corners, fill=height)

    def material_at(self, points: Points) -> list[Material | None]:
        """Material under each image point (N, 2); None outside the image."""
        found: list[Material | None] = []
        for x, y in points.tolist():
            inside = 0 <= x < self.width and 0 <= y < self.height
            found.append(self.materials[self._id_at(x, y)] if inside else None)
        return found

    def _id_at(self, x: float, y: float) -> int:
        value = self.ids.getpixel((int(x), int(y)))
        assert isinstance(value, (int, float))  # noqa: S101 - mode "I" has one band
        return int(value)

    def _add(self, material: Material) -> int:
        self.materials.append(material)
        return len(self.materials) - 1

    def _shows(self, outline: Points, width: float) -> bool:
        (x0, y0), (x1, y1) = outline.min(axis=0) - width, outline.max(axis=0) + width
        return bool(x1 >= 0 and y1 >= 0 and x0 < self.width and y0 < self.height)


def happens(rng: Generator, chance: float) -> bool:
    """Throw the dice once: true with a chance of 0 to 1."""
    return bool(rng.random() < chance)


def blob(rng: Generator, center: Sequence[float], radius: float) -> Points:
    """Outline of a rounded, irregular patch: plane points (36, 2)."""
    turn = np.linspace(0.0, 2.0 * np.pi, 36, endpoint=False)
    reach = np.ones(36)
    for order in (1, 2, 3, 5):
        swing = rng.uniform(0.0, 0.45 / (order + 1))
        reach += swing * np.sin(order * turn + rng.uniform(0.0, 2.0 * np.pi))
    stretch = rng.uniform(0.75, 1.25)
    offset = np.stack((np.cos(turn) * stretch, np.sin(turn) / stretch), axis=1)
    points: Points = np.asarray(center) + radius * reach[:, None] * offset
    return points


def _dense(points: Points, *, step: float = _STEP) -> Points:
    """The same polyline with vertices every ``step`` pixels or closer."""
    parts = []
    for start, stop in itertools.pairwise(points):
        count = max(1, int(np.ceil(np.hypot(*(stop - start)) / step)))
        parts.append(start + (stop - start) * np.arange(count)[:, None] / count)
    return np.concatenate((*parts, points[-1:]))
