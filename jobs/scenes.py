"""Procedural aerial scenes with their exact truth, at about 0.3 m a pixel.

A scene is drawn as materials first, then trees grow where the material lets
them, then one sun lights it all. Shade never changes a pixel's class, and a
crown counts as trees whatever it hangs over. The same seed and size give the
same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.scene_layout import draw_country
from jobs.scene_light import Ground, Light, photograph
from jobs.scene_materials import CLASSES, Label
from jobs.scene_trees import grow

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bytes = NDArray[np.uint8]

__all__ = ["CLASSES", "Label", "Scene", "make_scene"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A picture from above, and what is to be seen on it."""

    pixels: Bytes
    """RGB (3, height, width)."""

    truth: Bytes
    """Class ids (height, width), positions in ``CLASSES``."""


def make_scene(seed: int, height: int, width: int) -> Scene:
    """The scene of ``seed`` at a size.

    Args:
        seed: Any integer from 0.
        height: Rows, at least 1.
        width: Columns, at least 1.

    Returns:
        Picture and truth.

    Raises:
        ValueError: ``seed`` is negative or a side is below 1.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if height < 1 or width < 1:
        raise ValueError(f"scene sides must be at least 1 px, got {height} x {width}")
    streams = np.random.SeedSequence(seed).spawn(4)
    sky, plan, growth, film = (np.random.Generator(np.random.PCG64(s)) for s in streams)
    light = Light.random(sky)
    canvas = draw_country(plan, height, width, light.sun)
    ids, heights = np.asarray(canvas.ids), np.array(canvas.heights)
    hues = grow(growth, canvas, ids, heights)
    ground = Ground(ids=ids, materials=canvas.materials, heights=heights, hues=hues)
    labels = np.array([material.label for material in canvas.materials], np.uint8)[ids]
    labels[hues > 0] = Label.TREES
    return Scene(pixels=photograph(film, ground, light), truth=labels)
