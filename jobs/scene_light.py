"""One sun over a scene: surfaces with texture, shadows, bright and dark sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from numpy.random import Generator
    from numpy.typing import NDArray

    from jobs.scene_materials import Material

    Bytes = NDArray[np.uint8]
    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]

_STRIP = 64  # rows lit at once, so that the work stays in the processor's cache
_CONIFER: Final = (52, 74, 52)
_BROADLEAF: Final = (118, 138, 74)
_TRAMLINES = np.float32(11.0)  # rows from one pair of wheel tracks to the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Light:
    """Sun, air and camera of one scene."""

    sun: NDArray[np.float64]
    """Unit vector (x, y) in the image towards the sun."""

    reach: float
    """Length of a shadow for a height of 1."""

    gain: tuple[float, ...]
    """Exposure and white balance, RGB."""

    shade: tuple[float, ...]
    """Light that reaches shaded ground, RGB, 0 to 1."""

    haze: tuple[float, ...]
    """Light added by the air, RGB, 0 to 255."""

    blur: float
    """Sigma of the lens in pixels."""

    @classmethod
    def random(cls, rng: Generator) -> Light:
        """Sun in the southern half of the sky, clear to slightly hazy air."""
        bearing = rng.uniform(0.45, np.pi - 0.45)
        warmth, exposure = float(rng.normal(0.0, 0.03)), float(rng.uniform(0.92, 1.18))
        shade, haze = float(rng.uniform(0.40, 0.56)), float(rng.uniform(0.0, 22.0))
        return cls(
            sun=np.array((np.cos(bearing), np.sin(bearing))),
            reach=float(rng.uniform(0.55, 1.2)),
            gain=tuple(exposure * tint for tint in (1.0 + warmth, 1.0, 1.0 - warmth)),
            shade=tuple(shade * tint for tint in (0.94, 1.0, 1.12)),
            haze=tuple(haze * tint for tint in (0.90, 1.0, 1.15)),
            blur=float(rng.uniform(0.45, 0.75)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """All that the sun shines on; every array is (height, width)."""

    ids: NDArray[np.int32]
    """Positions in ``materials``."""

    materials: list[Material]
    """What the ids stand for."""

    heights: Bytes
    """Pixels above the ground."""

    hues: Bytes
    """Hue of the tree on top, 1 conifer to 255 broadleaf; 0 where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Texture:
    """Noise that all materials share; every array is (height, width), about -1 to 1."""

    patches: Floats
    """Over 30 to 300 px."""

    clumps: Floats
    """Over 4 to 12 px."""

    grain: Floats
    """From pixel to pixel."""

    @classmethod
    def random(cls, rng: Generator, height: int, width: int) -> _Texture:
        """Fresh noise of a size."""
        patches = _noise(rng, height, width, 280)
        patches += np.float32(0.7) * _noise(rng, height, width, 90)
        patches += np.float32(0.45) * _noise(rng, height, width, 32)
        clumps = _noise(rng, height, width, 11)
        clumps += np.float32(0.8) * _noise(rng, height, width, 4)
        grain = rng.integers(-128, 128, size=(height, width), dtype=np.int8)
        return cls(
            patches=patches,
            clumps=clumps,
            grain=grain.astype(np.float32) / np.float32(74.0),
        )

    def rows(self, strip: slice) -> _Texture:
        """The same noise for some rows."""
        return _Texture(
            patches=self.patches[strip], clumps=self.clumps[strip], grain=self.grain[strip]
        )


class _Surface:
    """Materials as columns of numbers, to be indexed by ids."""

    def __init__(self, materials: list[Material]) -> None:
        rows = [material.rows for material in materials]
        wave = np.array([2.0 * np.pi / row.period for row in rows])
        angle = np.array([row.angle for row in rows])
        self.color = _columns([material.color for material in materials])
        self.patches = _columns([material.patches for material in materials])
        self.speckle = _columns([material.speckle for material in materials])
        self.clumps = _columns([material.clumps for material in materials])
        self.depth = _columns([row.depth for row in rows])
        self.tramlines = _columns([row.tramlines for row in rows])
        self.wave_x = _columns(wave * np.cos(angle))
        self.wave_y = _columns(wave * np.sin(angle))

    def tone(self, ids: NDArray[np.int32], texture: _Texture, top: int) -> Floats:
        """Relative brightness of a strip that starts at row ``top``."""
        tone = self.speckle[ids] * texture.grain
        tone += self.clumps[ids] * texture.clumps
        y = np.arange(top, top + ids.shape[0], dtype=np.float32)[:, None]
        x = np.arange(ids.shape[1], dtype=np.float32)
        phase = self.wave_y[ids] * y + self.wave_x[ids] * x + texture.patches
        tone += self.depth[ids] * np.sin(phase)
        cycle = phase / np.float32(2.0 * np.pi * _TRAMLINES)
        cycle -= np.floor(cycle)
        wheels = (cycle < np.float32(0.035)) | (np.abs(cycle - 0.14) < np.float32(0.018))
        tone -= self.tramlines[ids] * wheels
        tone += np.float32(1.0)
        return tone


def photograph(rng: Generator, ground: Ground, light: Light) -> Bytes:
    """The picture that a plane would take of the ground: RGB (3, height, width)."""
    height, width = ground.ids.shape
    texture = _Texture.random(rng, height, width)
    surface = _Surface(ground.materials)
    shaded, lean = _shadows(ground.heights, light), _lean(ground.heights, light)
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _STRIP):
        strip = slice(top, top + _STRIP)
        ids, noise, hues = ground.ids[strip], texture.rows(strip), ground.hues[strip]
        tone = surface.tone(ids, noise, top)
        mix = np.clip(np.float32(0.5) + np.float32(0.55) * noise.patches, 0.0, 1.0)
        leaves = hues / np.float32(255.0)
        crown = np.float32(0.82) + np.float32(0.055) * lean[strip]
        crown += np.float32(0.09) * noise.grain + np.float32(0.05) * noise.clumps
        for band in range(3):
            low, high = surface.color[band][ids], surface.patches[band][ids]
            color = (low + (high - low) * mix) * tone
            tree = _CONIFER[band] + np.float32(_BROADLEAF[band] - _CONIFER[band]) * leaves
            np.copyto(color, tree * crown, where=hues > 0)
            np.multiply(
                color, np.float32(light.shade[band]), out=color, where=shaded[strip]
            )
            color = color * np.float32(light.gain[band]) + np.float32(light.haze[band])
            picture[strip, :, band] = np.clip(color, 0.0, 255.0)
    return _develop(rng, picture, light)


def _develop(rng: Generator, picture: Bytes, light: Light) -> Bytes:
    """Lens and sensor: a soft blur, then noise of a few counts."""
    lens = ImageFilter.GaussianBlur(light.blur)
    soft = np.asarray(Image.fromarray(picture).filter(lens))
    pixels = np.empty((3, *soft.shape[:2]), np.uint8)
    for band in range(3):
        counts = rng.integers(-5, 6, size=soft.shape[:2], dtype=np.int8)
        pixels[band] = np.clip(soft[..., band] + counts.astype(np.int16), 0, 255)
    return pixels


def _noise(rng: Generator, height: int, width: int, cell: int) -> Floats:
    """Smooth noise (height, width) of zero mean, about -1 to 1."""
    rows, cols = height // cell + 4, width // cell + 4
    grid = Image.fromarray(rng.uniform(-1.3, 1.3, size=(rows, cols)).astype(np.float32))
    left, top = rng.uniform(0.5, 1.5, size=2).tolist()
    view = (left, top, left + width / cell, top + height / cell)
    return np.array(grid.resize((width, height), Image.Resampling.BICUBIC, box=view))


def _columns(values: object) -> Floats:
    """One contiguous float32 row per column of a list of numbers or tuples."""
    return np.ascontiguousarray(np.array(values, np.float32).T)


def _shadows(heights: Bytes, light: Light) -> Mask:
    """Pixels that something higher hides from the sun."""
    shaded = np.zeros(heights.shape, np.bool_)
    stride = 1.5
    for step in range(1, int(int(heights.max()) * light.reach / stride) + 1):
        dx, dy = np.rint(light.sun * step * stride).astype(int).tolist()
        here, there = _neighbours(heights.shape, dy, dx)
        fall = np.uint8(round(step * stride / light.reach))
        shaded[here] |= heights[there] > heights[here] + fall
    return shaded


def _lean(heights: Bytes, light: Light) -> Floats:
    """How far each surface falls towards the sun, in pixels of height over 2."""
    dx, dy = np.rint(light.sun * 2.0).astype(int).tolist()
    here, behind = _neighbours(heights.shape, -dy, -dx)
    fall = np.zeros(heights.shape, np.float32)
    fall[here] = heights[behind].astype(np.float32) - heights[here]
    return np.clip(fall, -9.0, 9.0, out=fall)


def _neighbours(
    shape: tuple[int, ...], dy: int, dx: int
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of the pixels that have a neighbour (dy, dx) away, and of these neighbours."""
    height, width = shape
    dy, dx = max(-height, min(height, dy)), max(-width, min(width, dx))
    here = slice(max(0, -dy), height - max(0, dy)), slice(max(0, -dx), width - max(0, dx))
    there = slice(max(0, dy), height + min(0, dy)), slice(max(0, dx), width + min(0, dx))
    return here, there
