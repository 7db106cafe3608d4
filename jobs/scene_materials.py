"""What the ground of a procedural scene is made of.

A material is all that one polygon of the scene knows: its class, its colours and
its texture. Colours of different classes overlap on purpose (grey roofs and
asphalt, brown roofs and soil, ripe crops and dry soil, dark water and shade), so
that a network must look at texture and context.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from numpy.random import Generator

Color = tuple[int, int, int]


class Label(enum.IntEnum):
    """Class ids of a scene's truth; ``CLASSES`` names them."""

    SOIL = 0
    FIELD = 1
    TREES = 2
    WATER = 3
    ROAD = 4
    BUILDING = 5


CLASSES: Final[tuple[tuple[str, Color], ...]] = (
    ("bare soil", (214, 178, 122)),
    ("field", (168, 208, 98)),
    ("trees", (34, 112, 62)),
    ("water", (58, 134, 206)),
    ("road", (112, 112, 124)),
    ("building", (218, 74, 62)),
)
"""Name and map colour of each class; a class's position is its id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Stripes along a field: crop rows, furrows, mowing lines."""

    depth: float = 0.0
    """Relative change of brightness from row to row."""

    period: float = 8.0
    """Pixels from one row to the next."""

    angle: float = 0.0
    """Direction across the rows, in radians."""

    tramlines: float = 0.0
    """Relative darkness of the wheel tracks that repeat every 11 rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """Class, colour and texture of one kind of surface."""

    label: Label
    """Class of every pixel that shows it."""

    color: Color
    """RGB where the coarse noise is low."""

    patches: Color
    """RGB where the coarse noise is high."""

    speckle: float = 0.05
    """Relative brightness noise from pixel to pixel."""

    clumps: float = 0.05
    """Relative brightness noise over 4 to 16 pixels."""

    rows: Rows = field(default_factory=Rows)
    """Stripes, if any."""

    canopy: float = 0.0
    """Share of possible tree sites that carry a tree, 0 to 1."""

    crown: float = 9.0
    """Mean crown radius in pixels."""

    leaf: float = 0.5
    """Mean hue of its trees: 0 conifer, 1 light broadleaf."""


DEPTHS: Final = ((1.0, 1.12), (0.95, 1.07), (0.88, 1.02), (0.78, 0.97), (0.64, 0.93))
"""Rings of a water body: share of its width, and brightness over that depth."""

_CROPS: Final[tuple[tuple[Color, Color, float, float], ...]] = (
    # color, patches, row depth, row period in pixels
    ((116, 140, 66), (142, 152, 84), 0.10, 8.0),
    ((80, 114, 52), (98, 126, 58), 0.09, 7.0),
    ((70, 100, 46), (96, 112, 58), 0.20, 11.0),
    ((190, 168, 106), (172, 152, 94), 0.07, 5.5),
    ((178, 158, 112), (158, 142, 98), 0.12, 9.0),
    ((178, 172, 84), (158, 158, 84), 0.06, 7.0),
    ((152, 154, 96), (130, 140, 80), 0.11, 10.0),
    ((98, 128, 74), (128, 134, 76), 0.13, 6.5),
)
_SOILS: Final[tuple[tuple[Color, Color], ...]] = (
    ((136, 108, 80), (112, 88, 66)),
    ((186, 160, 124), (162, 136, 104)),
    ((168, 158, 144), (144, 136, 124)),
    ((160, 114, 84), (138, 98, 72)),
    ((148, 128, 100), (172, 152, 122)),
)
_GRASS: Final[tuple[tuple[Color, Color], ...]] = (
    ((104, 126, 66), (132, 138, 82)),
    ((92, 116, 60), (118, 128, 72)),
    ((124, 136, 78), (150, 146, 98)),
)
_WATERS: Final[tuple[tuple[Color, Color], ...]] = (
    ((42, 60, 58), (54, 74, 68)),
    ((52, 76, 88), (66, 92, 102)),
    ((78, 88, 70), (94, 102, 80)),
    ((36, 56, 72), (48, 70, 84)),
)
_PAVINGS: Final[tuple[tuple[Color, Color], ...]] = (
    ((116, 116, 119), (128, 127, 128)),
    ((138, 136, 132), (150, 147, 142)),
    ((96, 97, 102), (108, 108, 112)),
    ((158, 154, 146), (170, 165, 156)),
)
_ROOFS: Final[tuple[tuple[Color, float], ...]] = (
    # color, how common
    ((154, 84, 66), 0.20),
    ((170, 104, 80), 0.14),
    ((126, 68, 58), 0.08),
    ((122, 96, 76), 0.14),
    ((116, 118, 124), 0.14),
    ((78, 79, 86), 0.10),
    ((152, 150, 148), 0.10),
    ((212, 209, 202), 0.10),
)
_HALLS: Final[tuple[tuple[Color, float], ...]] = (
    ((206, 206, 202), 0.34),
    ((158, 160, 164), 0.28),
    ((112, 112, 116), 0.16),
    ((126, 138, 152), 0.12),
    ((150, 92, 78), 0.10),
)


def crop(rng: Generator, angle: float) -> Material:
    """A field of one crop, its rows across ``angle``."""
    color, patches, depth, period = _CROPS[int(rng.integers(len(_CROPS)))]
    return Material(
        label=Label.FIELD,
        color=_vary(rng, color, 9),
        patches=_vary(rng, patches, 9),
        clumps=float(rng.uniform(0.03, 0.08)),
        rows=Rows(
            depth=depth * float(rng.uniform(0.7, 1.4)),
            period=period * float(rng.uniform(0.85, 1.3)),
            angle=angle,
            tramlines=float(rng.choice((0.0, 0.10, 0.18))),
        ),
    )


def grass(rng: Generator, *, canopy: float = 0.0) -> Material:
    """Meadow, lawn or verge, with scattered trees where ``canopy`` says so."""
    color, patches = _GRASS[int(rng.integers(len(_GRASS)))]
    return Material(
        label=Label.FIELD,
        color=_vary(rng, color, 10),
        patches=_vary(rng, patches, 10),
        speckle=0.06,
        clumps=0.09,
        canopy=canopy,
        crown=float(rng.uniform(8.0, 12.0)),
        leaf=float(rng.uniform(0.35, 0.9)),
    )


def soil(rng: Generator, angle: float = 0.0, *, ploughed: bool = False) -> Material:
    """Open ground; ``ploughed`` gives it faint furrows across ``angle``."""
    color, patches = _SOILS[int(rng.integers(len(_SOILS)))]
    depth = float(rng.uniform(0.03, 0.08)) if ploughed else 0.0
    return Material(
        label=Label.SOIL,
        color=_vary(rng, color, 10),
        patches=_vary(rng, patches, 10),
        speckle=0.08,
        clumps=0.10,
        rows=Rows(depth=depth, period=float(rng.uniform(5.0, 9.0)), angle=angle),
    )


def forest(rng: Generator) -> Material:
    """Closed wood; the shaded floor between crowns counts as trees."""
    return Material(
        label=Label.TREES,
        color=(46, 60, 38),
        patches=(60, 72, 44),
        clumps=0.15,
        canopy=1.0,
        crown=float(rng.uniform(7.5, 12.0)),
        leaf=float(rng.choice((0.1, 0.45, 0.7))),
    )


def hedge(rng: Generator) -> Material:
    """A line of bushes between two fields."""
    return replace(
        forest(rng), canopy=float(rng.uniform(0.5, 1.0)), crown=float(rng.uniform(5.5, 8.0))
    )


def water(rng: Generator) -> Material:
    """Still or slowly flowing water."""
    color, patches = _WATERS[int(rng.integers(len(_WATERS)))]
    return Material(
        label=Label.WATER,
        color=_vary(rng, color, 8),
        patches=_vary(rng, patches, 8),
        speckle=0.015,
        clumps=0.03,
    )


def paving(rng: Generator) -> Material:
    """Asphalt or concrete."""
    color, patches = _PAVINGS[int(rng.integers(len(_PAVINGS)))]
    return Material(
        label=Label.ROAD,
        color=_vary(rng, color, 6),
        patches=_vary(rng, patches, 6),
        speckle=0.04,
        clumps=0.025,
    )


def paint(rng: Generator, *, car: bool = False) -> Material:
    """A white road marking, or the body of a car; both count as road."""
    color = _vary(rng, (214, 212, 204), 8)
    if car:
        tones = (
            (228, 228, 228),
            (40, 42, 46),
            (150, 152, 156),
            (150, 40, 36),
            (48, 72, 120),
        )
        color = tones[int(rng.integers(len(tones)))]
    return Material(label=Label.ROAD, color=color, patches=color)


def roof(rng: Generator, *, hall: bool = False) -> Material:
    """Tiles or slates of a house, or the flat cover of a hall."""
    table = _HALLS if hall else _ROOFS
    color, _ = table[int(rng.choice(len(table), p=[share for _, share in table]))]
    color = _vary(rng, color, 9)
    return Material(
        label=Label.BUILDING,
        color=color,
        patches=_vary(rng, color, 8),
        speckle=0.05,
        clumps=0.03,
    )


def lit(material: Material, brightness: float) -> Material:
    """The same material on a slope that catches more or less of the sun."""
    return replace(
        material,
        color=_scaled(material.color, brightness),
        patches=_scaled(material.patches, brightness),
    )


def _scaled(color: Color, factor: float) -> Color:
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue


def _vary(rng: Generator, color: Color, spread: float) -> Color:
    """Brightness moves by ``spread`` at one sigma, each channel by a third of it."""
    shift = rng.normal(0.0, spread) + rng.normal(0.0, spread / 3, size=3)
    red, green, blue = (
        int(min(245, max(12, round(c + s)))) for c, s in zip(color, shift, strict=True)
    )
    return red, green, blue
