"""Houses and halls: rotated roofs with slopes, and their small parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs import scene_materials as materials
from jobs.scene_canvas import happens
from jobs.scene_materials import Label

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from jobs.scene_canvas import Canvas

    Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A turned rectangle in the image."""

    x: float
    y: float
    angle: float
    """Direction of the long axis, in radians."""

    length: float
    width: float

    def points(self, local: list[tuple[float, float]]) -> Points:
        """Image points of local ones, where -1 to 1 spans length and width."""
        along = np.array((np.cos(self.angle), np.sin(self.angle))) * self.length / 2
        across = np.array((-np.sin(self.angle), np.cos(self.angle))) * self.width / 2
        outline: Points = np.array(local) @ np.stack((along, across)) + np.array(
            (self.x, self.y)
        )
        return outline

    def part(self, along: float, across: float, length: float, width: float) -> Box:
        """A box within: its middle in local units, its sides in pixels."""
        (x, y) = self.points([(along, across)])[0].tolist()
        return Box(x=x, y=y, angle=self.angle, length=length, width=width)


_CORNERS = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
_OPEN_GROUND = (Label.SOIL, Label.FIELD)


def is_free(canvas: Canvas, box: Box, ground: tuple[Label, ...] = _OPEN_GROUND) -> bool:
    """Whether a box, and a little space around it, lies on open ground."""
    probes = [(a * s, b * s) for s in (0.55, 1.2) for a, b in [*_CORNERS, (1.0, 0.0)]]
    sides = [(0.0, 0.0), (-1.2, 0.0), (0.0, 1.2), (0.0, -1.2)]
    below = canvas.material_at(box.points(probes + sides))
    return all(found is None or found.label in ground for found in below)


def house(canvas: Canvas, rng: Generator, box: Box, sun: Points) -> None:
    """Draw a house on ``box``; about a third get a wing and become L-shaped."""
    material = materials.roof(rng)
    height = int(rng.integers(14, 24))
    if happens(rng, 0.35) and box.length > 1.25 * box.width:
        side = float(rng.choice((-1.0, 1.0)))
        wing = box.part(side * (1.0 - 0.9 * box.width / box.length), 0.9, 1.0, 1.0)
        wing = Box(
            x=wing.x,
            y=wing.y,
            angle=box.angle + np.pi / 2,
            length=box.width * float(rng.uniform(1.1, 1.5)),
            width=box.width * float(rng.uniform(0.75, 0.95)),
        )
        _gable(canvas, wing, material, height, sun)
    if happens(rng, 0.3):
        _hip(canvas, box, material, height, sun)
    else:
        _gable(canvas, box, material, height, sun)
    _house_parts(canvas, rng, box, height)


def hall(canvas: Canvas, rng: Generator, box: Box) -> None:
    """Draw a flat-roofed hall with a rim, ribs and machines on its roof."""
    material = materials.roof(rng, hall=True)
    height = int(rng.integers(22, 42))
    canvas.slab(box.points(_CORNERS), materials.lit(material, 1.13), height)
    inner = box.part(0.0, 0.0, box.length - 4.0, box.width - 4.0)
    canvas.slab(inner.points(_CORNERS), material, height)
    if happens(rng, 0.5):
        count = int(box.length / rng.uniform(14.0, 26.0))
        for along in np.linspace(-1.0, 1.0, count + 2)[1:-1].tolist():
            rib = inner.part(along, 0.0, 2.0, box.width * 0.92)
            canvas.slab(rib.points(_CORNERS), materials.lit(material, 0.88), height)
    for _ in range(int(rng.integers(1, 7))):
        side = rng.uniform(5.0, 12.0, size=2)
        along, across = rng.uniform(-0.8, 0.8, size=2)
        machine = inner.part(float(along), float(across), float(side[0]), float(side[1]))
        tone = materials.lit(material, float(rng.uniform(0.6, 1.25)))
        canvas.slab(machine.points(_CORNERS), tone, height + 5)


def car(canvas: Canvas, rng: Generator, box: Box) -> None:
    """Draw a car; it counts as what it stands on, road."""
    body = materials.paint(rng, car=True)
    canvas.slab(box.points(_CORNERS), body, 5)
    cabin = box.part(-0.1, 0.0, box.length * 0.42, box.width * 0.76)
    canvas.slab(cabin.points(_CORNERS), materials.lit(body, 0.45), 6)


def _gable(
    canvas: Canvas, box: Box, material: materials.Material, height: int, sun: Points
) -> None:
    across = np.array((-np.sin(box.angle), np.cos(box.angle)))
    gain = 0.24 * float(across @ sun)
    halves = (
        (1.0 + gain, [(-1.0, 0.0), (1.0, 0.0), (1.0, 1.0), (-1.0, 1.0)]),
        (1.0 - gain, [(-1.0, -1.0), (1.0, -1.0), (1.0, 0.0), (-1.0, 0.0)]),
    )
    for brightness, outline in halves:
        canvas.slab(box.points(outline), materials.lit(material, brightness), height)
    ridge = box.part(0.0, 0.0, box.length, 1.5)
    canvas.slab(ridge.points(_CORNERS), materials.lit(material, 1.12), height + 3)


def _hip(
    canvas: Canvas, box: Box, material: materials.Material, height: int, sun: Points
) -> None:
    along = np.array((np.cos(box.angle), np.sin(box.angle)))
    across = np.array((-along[1], along[0]))
    end = 1.0 - min(1.0, box.width / box.length)  # where the ridge ends, 0 to 1
    facets = (
        (across, [(-end, 0.0), (end, 0.0), (1.0, 1.0), (-1.0, 1.0)]),
        (-across, [(-1.0, -1.0), (1.0, -1.0), (end, 0.0), (-end, 0.0)]),
        (along, [(end, 0.0), (1.0, -1.0), (1.0, 1.0)]),
        (-along, [(-end, 0.0), (-1.0, 1.0), (-1.0, -1.0)]),
    )
    for normal, outline in facets:
        tone = materials.lit(material, 1.0 + 0.24 * float(normal @ sun))
        canvas.slab(box.points(outline), tone, height)


def _house_parts(canvas: Canvas, rng: Generator, box: Box, height: int) -> None:
    """Chimney, sometimes roof windows or solar panels on one slope."""
    side = float(rng.choice((-1.0, 1.0)))
    dark = materials.roof(rng)
    if happens(rng, 0.6):
        chimney = box.part(float(rng.uniform(-0.7, 0.7)), 0.15 * side, 3.5, 3.5)
        canvas.slab(chimney.points(_CORNERS), materials.lit(dark, 0.8), height + 6)
    if happens(rng, 0.2):
        panel = box.part(0.0, 0.5 * side, box.length * 0.55, box.width * 0.3)
        blue = materials.Material(
            label=Label.BUILDING, color=(34, 42, 62), patches=(40, 50, 72), speckle=0.1
        )
        canvas.slab(panel.points(_CORNERS), blue, height)
    elif happens(rng, 0.4):
        for along in (-0.4, 0.4):
            window = box.part(along, 0.5 * side, 4.0, 3.0)
            canvas.slab(window.points(_CORNERS), materials.lit(dark, 0.45), height)
