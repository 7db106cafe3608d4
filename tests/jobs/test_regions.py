"""Polygons of a mask that is swept, held against those of the whole array."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize, shapes

from jobs.outputs.regions import Pixels, sweep

CLASSES = frozenset(range(254))


def sweep_all(mask, *, side, confidence=None, classes=CLASSES, simplify=0.0):
    """Class, polygon, and confidence of each region."""

    def read(window):
        box = np.s_[window.row : window.stop_row, window.col : window.stop_col]
        part = None if confidence is None else confidence[box]
        return Pixels(mask=mask[box], confidence=part)

    return [
        row
        for found in sweep(read, mask.shape, classes, simplify=simplify, side=side)
        for row in zip(
            found.classes.tolist(),
            found.polygons,
            found.confidence.tolist(),
            found.known.tolist(),
            strict=True,
        )
    ]


def twin(mask, classes=CLASSES):
    """What rasterio makes of the whole array: classes and polygons, counted."""
    found = shapes(mask, mask=np.isin(mask, list(classes)))
    return Counter(
        (int(value), _normal(shapely.geometry.shape(outline))) for outline, value in found
    )


def _normal(polygon):
    return shapely.to_wkb(shapely.normalize(polygon))


def counted(rows):
    return Counter((value, _normal(polygon)) for value, polygon, *_ in rows)


masks = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(
        st.integers(1, 14), st.integers(1, 14), st.sampled_from([2, 3, 5])
    ).map(lambda size: make_mask(seed, *size))
)


def make_mask(seed, height, width, kinds):
    """Few classes make long, winding regions; 254 and 255 are gaps."""
    values = np.array([0, 1, 255, 254, 253], dtype=np.uint8)[:kinds]
    random = np.random.default_rng(seed)
    return random.choice(values, size=(height, width))


@settings(max_examples=100)
@given(masks, st.integers(1, 15))
def test_polygons_are_those_of_the_whole_array(mask, side):
    rows = sweep_all(mask, side=side)
    assert counted(rows) == twin(mask)
    areas = Counter()
    for value, polygon, *_ in rows:
        assert polygon.is_valid
        areas[value] += polygon.area
    values, sizes = np.unique(mask[mask < 254], return_counts=True)
    assert areas == dict(zip(values.tolist(), sizes.tolist(), strict=True))


@settings(max_examples=60)
@given(masks, st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_confidence_is_summed_over_the_pixels_of_each_polygon(mask, side, seed):
    confidence = np.random.default_rng(seed).integers(0, 256, mask.shape, dtype=np.uint8)
    confidence[confidence < 60] = 0
    for _, polygon, total, known in sweep_all(mask, side=side, confidence=confidence):
        inside = rasterize([polygon], out_shape=mask.shape, dtype=np.uint8) == 1
        assert inside.sum() == polygon.area
        assert total == confidence[inside].sum(dtype=np.int64)
        assert known == (confidence[inside] > 0).sum()


@settings(max_examples=60)
@given(masks, st.integers(3, 12), st.sampled_from([0.8, 1.5, 3.0]))
def test_simplified_neighbours_keep_their_common_border(mask, side, tolerance):
    rows = sweep_all(mask, side=side, simplify=tolerance)
    exact = sweep_all(mask, side=side)
    assert len(rows) == len(exact)
    polygons = [polygon for _, polygon, *_ in rows]
    assert shapely.is_valid(polygons).all()
    # Gaps take part, so what is covered may change at them alone; nothing overlaps.
    together = shapely.union_all(polygons) if polygons else shapely.Polygon()
    assert together.area == pytest.approx(shapely.area(polygons).sum(), rel=1e-9)
    if (mask < 254).all():
        assert together.area == pytest.approx(mask.size, rel=1e-9)


def test_simplifying_smooths_the_steps_of_a_slope():
    mask = np.tri(64, dtype=np.uint8)
    plain = sweep_all(mask, side=16)
    smooth = sweep_all(mask, side=16, simplify=1)
    count = [
        int(shapely.get_num_coordinates([p for _, p, *_ in x]).sum())
        for x in (plain, smooth)
    ]
    assert count[0] > 250
    assert count[1] < 50


def test_classes_that_are_not_asked_for_are_gaps():
    mask = make_mask(3, 40, 50, 5)
    wanted = frozenset({0, 253})
    assert counted(sweep_all(mask, side=16, classes=wanted)) == twin(mask, wanted)
    simple = sweep_all(mask, side=16, classes=wanted, simplify=1)
    assert {value for value, *_ in simple} == wanted


@pytest.mark.parametrize("side", [7, 16, 64])
def test_a_large_region_keeps_its_holes(side):
    mask = (np.random.default_rng(5).random((90, 110)) < 0.15).astype(np.uint8)
    rows = sweep_all(mask, side=side)
    assert counted(rows) == twin(mask)
    assert max(shapely.get_num_interior_rings(polygon) for _, polygon, *_ in rows) > 500


def test_a_spiral_through_every_block_is_one_polygon():
    mask = np.full((101, 101), 255, dtype=np.uint8)
    top, left, bottom, right = 0, 0, 100, 100
    while top < bottom:
        mask[top, max(left - 2, 0) : right + 1] = 7
        mask[top : bottom + 1, right] = 7
        mask[bottom, left : right + 1] = 7
        mask[top + 2 : bottom + 1, left] = 7
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    rows = sweep_all(mask, side=10)
    assert counted(rows) == twin(mask)
    assert len(rows) == 1


SNAKE = """
import sys
from pathlib import Path
import numpy as np
from jobs.outputs.regions import Pixels, sweep

HEIGHT, WIDTH = 20_000, 2_000

def read(window):
    # A snake runs down and up every tenth column; beside it lie small squares.
    rows = np.arange(window.row, window.stop_row)[:, None]
    cols = np.arange(window.col, window.stop_col)[None, :]
    snake = (cols % 10 == 0) | ((rows == 0) & (cols // 10 % 2 == 1))
    snake |= (rows == HEIGHT - 1) & (cols // 10 % 2 == 0)
    squares = (rows % 20 > 4) & (rows % 20 < 10) & (cols % 10 > 3) & (cols % 10 < 8)
    mask = np.where(snake, 1, np.where(squares, 2, 255)).astype(np.uint8)
    return Pixels(mask=mask)

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith("VmHWM")) / 1024

before = peak()
counts, area = {}, {}
import shapely
for found in sweep(read, (HEIGHT, WIDTH), frozenset({1, 2}), side=int(sys.argv[1])):
    for value in (1, 2):
        own = found.polygons[found.classes == value]
        counts[value] = counts.get(value, 0) + len(own)
        area[value] = area.get(value, 0) + int(shapely.area(own).sum())
print(counts[1], counts[2], area[1], area[2], before, peak())
"""


def test_memory_is_that_of_blocks_and_open_regions():
    """40 million pixels, of which a whole copy in int64, as GDAL works, takes 320 MB."""
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", SNAKE, "1024"], capture_output=True, text=True, check=True
    )
    snakes, squares, snake, square, before, peak = map(float, done.stdout.split())
    assert (snakes, squares) == (1, 1000 * 200)
    assert snake == 20_000 * 200 + 200 * 9  # ways and bends
    assert square == 1000 * 200 * 20
    assert peak - before < 200  # 84 measured
