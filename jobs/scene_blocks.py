"""What one block of land between roads is used for, and how it then looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from jobs import scene_materials as materials
from jobs.scene_buildings import Box, car, hall, house, is_free
from jobs.scene_canvas import Canvas, blob, happens
from jobs.scene_materials import Label

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Points = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A rectangle of the plane."""

    u0: float
    v0: float
    u1: float
    v1: float

    @property
    def size(self) -> tuple[float, float]:
        """Extent along u and along v."""
        return self.u1 - self.u0, self.v1 - self.v0

    @property
    def center(self) -> tuple[float, float]:
        """Middle (u, v)."""
        return (self.u0 + self.u1) / 2, (self.v0 + self.v1) / 2

    @property
    def corners(self) -> Points:
        """Outline (4, 2)."""
        return np.array(
            ((self.u0, self.v0), (self.u1, self.v0), (self.u1, self.v1), (self.u0, self.v1))
        )

    def cut(self, position: float, *, across_u: bool) -> tuple[Block, Block]:
        """The two parts on either side of a straight cut."""
        if across_u:
            return (
                Block(u0=self.u0, v0=self.v0, u1=position, v1=self.v1),
                Block(u0=position, v0=self.v0, u1=self.u1, v1=self.v1),
            )
        return (
            Block(u0=self.u0, v0=self.v0, u1=self.u1, v1=position),
            Block(u0=self.u0, v0=position, u1=self.u1, v1=self.v1),
        )

    def shrunk(self, by: float) -> Block:
        """The block without a border."""
        return Block(u0=self.u0 + by, v0=self.v0 + by, u1=self.u1 - by, v1=self.v1 - by)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """All that drawing one block needs."""

    canvas: Canvas
    rng: Generator
    block: Block
    sun: Points

    def along(self, *, long_side: bool = True) -> float:
        """Image direction of the block's long (or short) side, in radians."""
        wide = self.block.size[0] >= self.block.size[1]
        turn = 0.0 if wide == long_side else np.pi / 2
        return self.canvas.frame.direction(*self.block.center) + turn

    def box(self, u: float, v: float, length: float, width: float, turn: float) -> Box:
        """An image box around a plane point, turned against the u axis."""
        ((x, y),) = self.canvas.frame.to_image(np.array(((u, v),))).tolist()
        angle = self.canvas.frame.direction(u, v) + turn
        return Box(x=x, y=y, angle=angle, length=length, width=width)


def _farm(plot: Plot) -> None:
    """Two to six fields in strips, some between hedges."""
    rng, uncut = plot.rng, [plot.block]
    for _ in range(int(rng.integers(1, 6))):
        uncut.sort(key=lambda block: block.size[0] * block.size[1])
        field = uncut.pop()
        across_u = field.size[0] >= field.size[1]
        low, high = (field.u0, field.u1) if across_u else (field.v0, field.v1)
        at = low + (high - low) * float(rng.uniform(0.3, 0.7))
        uncut += field.cut(at, across_u=across_u)
    for field in uncut:
        _field(Plot(canvas=plot.canvas, rng=rng, block=field, sun=plot.sun))


def _field(plot: Plot) -> None:
    rng, canvas, block = plot.rng, plot.canvas, plot.block
    angle = plot.along(long_side=happens(rng, 0.25))
    if happens(rng, 0.66):
        surface = materials.crop(rng, angle)
    elif happens(rng, 0.6):
        surface = materials.soil(rng, angle, ploughed=happens(rng, 0.7))
    else:
        surface = materials.grass(rng, canopy=0.012)
    canvas.polygon(block.corners, surface)
    if happens(rng, 0.10):
        canvas.polygon(_spot(plot, 0.22), materials.forest(rng))
    closed = np.concatenate((block.corners, block.corners[:1]))
    for side in range(4):
        if happens(rng, 0.22):
            width = float(rng.uniform(7.0, 13.0))
            canvas.line(closed[side : side + 2], width, materials.hedge(rng))
        elif happens(rng, 0.5):
            canvas.line(closed[side : side + 2], 5.0, materials.grass(rng, canopy=0.03))


def _spot(plot: Plot, share: float) -> Points:
    """A blob within the block, its radius ``share`` of the shorter side."""
    size = np.array(plot.block.size)
    center = np.array(plot.block.center) + size * plot.rng.uniform(-0.25, 0.25, size=2)
    return blob(plot.rng, center.tolist(), float(size.min()) * share)


def _forest(plot: Plot) -> None:
    plot.canvas.polygon(plot.block.corners, materials.forest(plot.rng))
    for _ in range(int(plot.rng.integers(0, 3))):
        glade = materials.grass(plot.rng, canopy=0.06)
        plot.canvas.polygon(_spot(plot, float(plot.rng.uniform(0.08, 0.2))), glade)


def _lake(plot: Plot) -> None:
    """Meadow with scattered trees around a pond and its shore."""
    rng, canvas = plot.rng, plot.canvas
    canvas.polygon(plot.block.corners, materials.grass(rng, canopy=0.04))
    canvas.polygon(_spot(plot, 0.2), materials.grass(rng, canopy=0.5))
    shore = blob(
        rng, plot.block.center, min(plot.block.size) * float(rng.uniform(0.3, 0.42))
    )
    middle, water = shore.mean(axis=0), materials.water(rng)
    fringe = materials.soil(rng) if happens(rng, 0.5) else materials.grass(rng, canopy=0.2)
    canvas.polygon(middle + (shore - middle) * 1.09, fringe)
    for scale, brightness in materials.DEPTHS:
        canvas.polygon(middle + (shore - middle) * scale, materials.lit(water, brightness))


def _site(plot: Plot) -> None:
    """Open ground: a building site or a pit, with heaps and leftover green."""
    rng, canvas = plot.rng, plot.canvas
    canvas.polygon(plot.block.corners, materials.grass(rng, canopy=0.05))
    canvas.polygon(plot.block.shrunk(14.0).corners, materials.soil(rng))
    for _ in range(int(rng.integers(2, 6))):
        canvas.polygon(_spot(plot, float(rng.uniform(0.05, 0.22))), materials.soil(rng))
    canvas.polygon(_spot(plot, 0.12), materials.grass(rng, canopy=0.1))


def _orchard(plot: Plot) -> None:
    """Trees in straight lines on grass."""
    rng, canvas, inner = plot.rng, plot.canvas, plot.block.shrunk(20.0)
    canvas.polygon(plot.block.corners, materials.grass(rng))
    row, gap = rng.uniform(22.0, 30.0), rng.uniform(16.0, 22.0)
    v, u = np.meshgrid(
        np.arange(inner.v0, inner.v1, row), np.arange(inner.u0, inner.u1, gap)
    )
    sites = np.stack((u.ravel(), v.ravel()), axis=1)
    sites = sites[rng.permutation(len(sites))[: int(0.94 * len(sites))]]
    canvas.plant(sites + rng.normal(0.0, 1.0, size=sites.shape), materials.hedge(rng))


def _village_ground(plot: Plot) -> None:
    """Gardens side by side; hedges between some."""
    rng, canvas = plot.rng, plot.canvas
    canvas.polygon(plot.block.corners, materials.grass(rng, canopy=0.05))
    for lot, _ in _lots(plot.block):
        if happens(rng, 0.14):
            canvas.polygon(lot.corners, materials.soil(rng))
        else:
            lawn = materials.grass(rng, canopy=float(rng.uniform(0.02, 0.16)))
            canvas.polygon(lot.corners, lawn)
        if happens(rng, 0.3):
            canvas.line(lot.corners[1:3], 5.0, materials.hedge(rng))
    canvas.line(_street(plot.block), 14.0, materials.grass(rng))
    canvas.line(_street(plot.block), 10.5, materials.paving(rng))


def _street(block: Block) -> Points:
    """The middle line along the longer side."""
    u, v = block.center
    if block.size[0] >= block.size[1]:
        return np.array(((block.u0, v), (block.u1, v)))
    return np.array(((u, block.v0), (u, block.v1)))


def _lots(block: Block) -> list[tuple[Block, float]]:
    """Lots in four rows along the longer side, with the turn of their houses."""
    wide = block.size[0] >= block.size[1]
    length, depth = block.size if wide else block.size[::-1]
    count, quarter = max(1, int(length / 66.0)), depth / 4
    lots = []
    for row in range(4):
        for column in range(count):
            a, b = column * length / count, row * quarter
            low_u, low_v = (a, b) if wide else (b, a)
            u0, v0 = block.u0 + low_u, block.v0 + low_v
            du, dv = (length / count, quarter) if wide else (quarter, length / count)
            lot = Block(u0=u0, v0=v0, u1=u0 + du, v1=v0 + dv)
            lots.append((lot, 0.0 if wide else np.pi / 2))
    return lots


def _village(plot: Plot) -> None:
    """Houses where the ground is still free: single ones, or terraces in line."""
    rng = plot.rng
    terraced = happens(rng, 0.25)
    for lot, turn in _lots(plot.block):
        if happens(rng, 0.08):
            continue
        side, depth = max(lot.size), min(lot.size)
        u, v = np.array(lot.center) + (0.0 if terraced else rng.uniform(-6.0, 6.0, size=2))
        length, width, swing = (
            float(rng.uniform(32.0, 48.0)),
            float(rng.uniform(22.0, 31.0)),
            turn,
        )
        if terraced:
            length, width = float(rng.choice((0.99, 1.98))) * side, min(34.0, 0.5 * depth)
        else:
            swing += np.pi / 2 * int(happens(rng, 0.3)) + float(rng.normal(0.0, 0.04))
        box = plot.box(float(u), float(v), length, width, swing)
        if is_free(plot.canvas, box):
            house(plot.canvas, rng, box, plot.sun)


def _yard_ground(plot: Plot) -> None:
    """A paved yard, a strip of green on its edge, some of it unpaved."""
    rng, canvas = plot.rng, plot.canvas
    canvas.polygon(plot.block.corners, materials.grass(rng, canopy=0.10))
    canvas.polygon(plot.block.shrunk(20.0).corners, materials.paving(rng))
    if happens(rng, 0.5):
        canvas.polygon(_spot(plot, 0.18), materials.soil(rng))


def _yard(plot: Plot) -> None:
    """Halls on a coarse grid, car parks where none stands."""
    rng, inner = plot.rng, plot.block.shrunk(30.0)
    columns, rows = (max(1, round(side / 120.0)) for side in inner.size)
    du, dv = inner.size[0] / columns, inner.size[1] / rows
    for column in range(columns):
        for row in range(rows):
            u, v = inner.u0 + column * du, inner.v0 + row * dv
            cell = Block(u0=u, v0=v, u1=u + du, v1=v + dv)
            part = Plot(canvas=plot.canvas, rng=rng, block=cell, sun=plot.sun)
            if happens(rng, 0.62):
                _place_hall(part)
            else:
                _car_park(part)


def _place_hall(plot: Plot) -> None:
    share = plot.rng.uniform(0.6, 0.92, size=2)
    length, width = (np.array(plot.block.size) * share).tolist()
    box = plot.box(*plot.block.center, length, width, 0.0)
    if is_free(plot.canvas, box, (Label.SOIL, Label.FIELD, Label.ROAD)):
        hall(plot.canvas, plot.rng, box)


def _car_park(plot: Plot) -> None:
    """Two rows of marked bays, some taken."""
    rng, canvas, inner = plot.rng, plot.canvas, plot.block.shrunk(16.0)
    for v in (inner.center[1] - 22.0, inner.center[1] + 22.0):
        for u in np.arange(inner.u0, inner.u1, 9.0).tolist():
            bay = plot.box(u, v, 1.0, 16.0, 0.0)
            if not is_free(canvas, bay, (Label.ROAD,)):
                continue
            canvas.line(np.array(((u, v - 8.0), (u, v + 8.0))), 1.0, materials.paint(rng))
            if happens(rng, 0.5):
                car(canvas, rng, plot.box(u + 4.5, v, 14.0, 6.0, np.pi / 2))


def _farmstead(plot: Plot) -> None:
    """On some farms, a house and a barn around a yard of bare ground."""
    rng, canvas = plot.rng, plot.canvas
    if happens(rng, 0.6):
        return
    size = np.array(plot.block.size)
    corner = rng.choice((-1.0, 1.0), size=2) * (size / 2 - 75.0)
    u, v = (np.array(plot.block.center) + corner).tolist()
    boxes = [
        plot.box(u - 22.0, v - 18.0, 46.0, 27.0, 0.0),
        plot.box(u + 24.0, v + 10.0, 64.0, 30.0, np.pi / 2),
    ]
    if all(is_free(canvas, box) for box in boxes):
        canvas.polygon(blob(rng, (u, v), 58.0), materials.soil(rng))
        for box in boxes:
            house(canvas, rng, box, plot.sun)


GROUND: Final[dict[str, Callable[[Plot], None]]] = {
    "farm": _farm,
    "village": _village_ground,
    "forest": _forest,
    "lake": _lake,
    "yard": _yard_ground,
    "site": _site,
    "orchard": _orchard,
}
BUILT: Final[dict[str, Callable[[Plot], None]]] = {
    "farm": _farmstead,
    "village": _village,
    "yard": _yard,
}
