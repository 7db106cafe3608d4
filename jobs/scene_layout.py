"""Plan a piece of country: blocks between roads, and what stands in each.

The plane is cut in two again and again; long cuts become roads. The blocks that
remain are dealt a use from fixed shares, so that every scene that spans a few
blocks shows every class.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from jobs import scene_materials as materials
from jobs.scene_blocks import BUILT, GROUND, Block, Plot
from jobs.scene_buildings import Box, car, is_free
from jobs.scene_canvas import Canvas, Frame, happens
from jobs.scene_materials import Label

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    Points = NDArray[np.float64]

_MARGIN = 160.0  # pixels that the plan reaches past the image
_BLOCK = (300.0, 470.0)  # blocks longer than this are cut
_HIGHWAY = 1300.0  # cuts through longer blocks carry one
_COUNTRY_ROAD = 640.0
_MARKED = 12.5  # roads wider than this have a dashed middle line
_EDGED = 20.0  # and wider than this lines along the edges, too
_SHARES: Final[dict[str, float]] = {
    "farm": 0.32,
    "village": 0.28,
    "forest": 0.13,
    "lake": 0.09,
    "yard": 0.08,
    "site": 0.05,
    "orchard": 0.05,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Road:
    """A line on the plane that traffic follows."""

    path: Points
    width: float


def draw_country(rng: Generator, height: int, width: int, sun: Points) -> Canvas:
    """Plan and draw a whole scene of ``height`` x ``width`` pixels.

    Args:
        rng: Where every choice comes from.
        height: Rows.
        width: Columns.
        sun: Unit vector (x, y) in the image towards the sun.

    Returns:
        Materials and heights of the scene, trees not yet grown.
    """
    canvas = Canvas(height, width, Frame.random(rng, height, width))
    half = float(np.hypot(height, width)) / 2 + _MARGIN
    ground = Block(u0=-half, v0=-half, u1=half, v1=half)
    canvas.polygon(ground.shrunk(-2 * _MARGIN).corners, materials.grass(rng))
    blocks, roads = _cut(rng, ground)
    plots = [Plot(canvas=canvas, rng=rng, block=block, sun=sun) for block in blocks]
    uses = _deal(rng, plots)
    for plot, use in zip(plots, uses, strict=True):
        GROUND[use](plot)
    _rivers(canvas, rng, half)
    roads += _lanes(rng, half)
    _draw_roads(canvas, rng, roads)
    for plot, use in zip(plots, uses, strict=True):
        if use in BUILT:
            BUILT[use](plot)
    _traffic(canvas, rng, roads)
    return canvas


def _cut(rng: Generator, ground: Block) -> tuple[list[Block], list[Road]]:
    """Halve blocks until they are small; most cuts carry a road."""
    blocks: list[Block] = []
    roads: list[Road] = []
    uncut = [ground]
    while uncut:
        block = uncut.pop()
        longest = max(block.size)
        if longest < rng.uniform(*_BLOCK):
            blocks.append(block)
            continue
        across_u = block.size[0] == longest
        start = block.u0 if across_u else block.v0
        at = start + longest * float(rng.uniform(0.38, 0.62))
        uncut += block.cut(at, across_u=across_u)
        width = _road_width(rng, longest)
        if width:
            ends = (
                ((at, block.v0), (at, block.v1))
                if across_u
                else ((block.u0, at), (block.u1, at))
            )
            roads.append(Road(path=np.array(ends), width=width))
    return blocks, roads


def _road_width(rng: Generator, longest: float) -> float:
    """Pixels; 0 where a cut is only a border between fields."""
    if longest > _HIGHWAY:
        return float(rng.uniform(24.0, 30.0))
    if longest > _COUNTRY_ROAD:
        return float(rng.uniform(13.0, 19.0))
    return float(rng.uniform(9.0, 12.0)) if happens(rng, 0.5) else 0.0


def _deal(rng: Generator, plots: list[Plot]) -> list[str]:
    """A use for each plot: shares are kept among those in sight and among the rest.

    Towns and woods gather around a few places; the other uses lie in between.
    """
    canvas = plots[0].canvas
    places = canvas.frame.to_image(np.array([plot.block.center for plot in plots]))
    seen = ((places > 0) & (places < (canvas.width, canvas.height))).all(axis=1)
    uses = np.full(len(plots), "", dtype="<U8")
    for group in (np.flatnonzero(seen), np.flatnonzero(~seen)):
        free, hand = group, _hand(len(group))
        for kinds in (("village", "yard"), ("forest",), tuple(_SHARES)):
            dealt = rng.permutation([use for use in hand if use in kinds])
            hand = [use for use in hand if use not in kinds]
            middles = rng.random(size=(4, 1, 2)) * (canvas.width, canvas.height)
            distance = np.hypot(*(places[free] - middles).T).min(axis=1)
            free = free[np.argsort(distance, kind="stable")]
            uses[free[: len(dealt)]], free = dealt, free[len(dealt) :]
    return uses.tolist()


def _hand(count: int) -> list[str]:
    """``count`` uses in proportion to their shares."""
    dealt: Counter[str] = Counter()
    for turn in range(1, count + 1):
        use = max(_SHARES, key=lambda name: _SHARES[name] * turn - dealt[name])
        dealt[use] += 1
    return sorted(dealt.elements())


def _rivers(canvas: Canvas, rng: Generator, half: float) -> None:
    """None, one or two winding rivers between green banks."""
    for _ in range(int(rng.choice((0, 1, 1, 2)))):
        u = np.arange(-half - 50.0, half + 50.0, 20.0)
        v = np.full(u.shape, rng.uniform(-0.3, 0.3) * canvas.height)
        for length in rng.uniform(350.0, 1400.0, size=3):
            v += length * rng.uniform(0.03, 0.08) * _wave(rng, u, length)
        swell = 1.0 + 0.12 * _wave(rng, u, 800.0) + 0.12 * _wave(rng, u, 380.0)
        wide = rng.uniform(16.0, min(75.0, 40.0 + half / 80.0)) * swell
        turn = rng.uniform(0.0, np.pi)
        flip = np.array(((np.cos(turn), np.sin(turn)), (-np.sin(turn), np.cos(turn))))
        water = materials.water(rng)
        bands = [(wide + 24.0 * swell**4, materials.grass(rng, canopy=0.3))]
        bands += [(wide + 4.0, materials.soil(rng))]
        bands += [
            (wide * part, materials.lit(water, tone)) for part, tone in materials.DEPTHS
        ]
        for reach, surface in bands:
            upper, lower = (
                np.stack((u, v + reach), axis=1),
                np.stack((u, v - reach), axis=1),
            )
            canvas.polygon(np.concatenate((upper, lower[::-1])) @ flip, surface)


def _wave(rng: Generator, u: Points, length: float) -> Points:
    """A sine of a wavelength and any phase."""
    wave: Points = np.sin(2.0 * np.pi * u / length + rng.uniform(0.0, 2.0 * np.pi))
    return wave


def _lanes(rng: Generator, half: float) -> list[Road]:
    """Winding roads that care for no block."""
    lanes = []
    for _ in range(max(1, round(half / 800.0))):
        u = np.arange(-half, half, 16.0)
        v = np.full(u.shape, rng.uniform(-0.6, 0.6) * half)
        for length in rng.uniform(400.0, 1500.0, size=2):
            v += length * rng.uniform(0.03, 0.09) * _wave(rng, u, length)
        path = np.stack((u, v), axis=1)[:, :: int(rng.choice((-1, 1)))]
        lanes.append(Road(path=path, width=float(rng.uniform(8.0, 14.0))))
    return lanes


def _draw_roads(canvas: Canvas, rng: Generator, roads: list[Road]) -> None:
    """Verges first, then paving from narrow to wide, then markings."""
    ordered = sorted(roads, key=lambda road: road.width)
    for road in ordered:
        verge = materials.grass(rng, canopy=float(rng.choice((0.0, 0.02, 0.12))))
        if happens(rng, 0.3):
            verge = materials.soil(rng)
        canvas.line(road.path, road.width + rng.uniform(5.0, 12.0), verge)
    for road in ordered:
        canvas.line(road.path, road.width, materials.paving(rng))
    for road in ordered:
        if road.width > _EDGED:
            for shift in (-0.5, 0.5):
                edge = road.path + shift * (road.width - 5.0) * _normal(road.path)
                canvas.line(edge, 1.0, materials.paint(rng))
        if road.width > _MARKED:
            canvas.dashes(road.path, 1.0, materials.paint(rng))


def _normal(path: Points) -> Points:
    """Unit vector across a straight path."""
    u, v = path[-1] - path[0]
    across: Points = np.array((-v, u)) / np.hypot(u, v)
    return across


def _traffic(canvas: Canvas, rng: Generator, roads: list[Road]) -> None:
    """A car here and there on the right-hand lane."""
    for road in roads:
        steps = np.diff(road.path, axis=0)
        length = float(np.hypot(*steps.T).sum())
        for _ in range(int(rng.poisson(length / 260.0))):
            index = int(rng.integers(len(steps)))
            side = float(rng.choice((-1.0, 1.0)))
            spot = road.path[index] + float(rng.random()) * steps[index]
            spot = spot + side * road.width / 4 * _normal(road.path[index : index + 2])
            _car(canvas, rng, spot, steps[index])


def _car(canvas: Canvas, rng: Generator, spot: Points, heading: Points) -> None:
    ahead = heading / np.hypot(*heading)
    (x, y), (x1, y1) = canvas.frame.to_image(np.stack((spot, spot + ahead))).tolist()
    box = Box(x=x, y=y, angle=float(np.arctan2(y1 - y, x1 - x)), length=14.0, width=6.0)
    if is_free(canvas, box.part(0.0, 0.0, 1.0, 1.0), (Label.ROAD,)):
        car(canvas, rng, box)
