"""Scenes and blocks of a mosaic, against what is said plainly pixel by pixel."""

import time
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.pictures import Segmentation
from deeplab.tiles import Window
from jobs.mosaic import (
    Canvas,
    Scene,
    overlap,
    plan_blocks,
    stand_in,
    surround,
    write_time,
)
from jobs.plan import measure_plan, read_plan, write_plan
from jobs.shards import MOSAIC, Item, Refusal, Shard
from jobs.windows import cut_blocks

BOXES = st.builds(
    Window,
    row=st.integers(-900, 3000),
    col=st.integers(-900, 3000),
    height=st.integers(1, 2500),
    width=st.integers(1, 2500),
)


def scenes_in(boxes):
    return [
        Scene(item=Item(uri=f"/{i:05d}.tif", key=f"{i:05d}.tif", size=i, etag="e"), box=box)
        for i, box in enumerate(boxes)
    ]


def cut(scenes, height, width, side=512):
    own = stand_in("{}", scenes)
    return list(plan_blocks(own, cut_blocks(height, width, side, grid="{}"), scenes))


def is_in(row, col, box):
    inside = box.row <= row < box.row + box.height
    return inside and box.col <= col < box.col + box.width


def touches(core, box):
    """Whether any pixel is in both, asked of the pixels that could be."""
    rows = {core.row, core.row + core.height - 1, box.row, box.row + box.height - 1}
    cols = {core.col, core.col + core.width - 1, box.col, box.col + box.width - 1}
    return any(
        is_in(row, col, core) and is_in(row, col, box) for row in rows for col in cols
    )


@given(
    boxes=st.lists(BOXES, min_size=1, max_size=12),
    height=st.integers(1, 2600),
    width=st.integers(1, 2600),
    side=st.sampled_from([512, 1024]),
)
def test_a_block_has_the_scenes_that_touch_it_in_order(boxes, height, width, side):
    scenes = scenes_in(boxes)
    shards = cut(scenes, height, width, side)
    blocks = list(cut_blocks(height, width, side, grid="{}"))
    assert [shard.block for shard in shards] == blocks
    assert [shard.index for shard in shards] == list(range(len(blocks)))
    for shard in shards:
        core = shard.block.core
        expected = [scene.item for scene in scenes if touches(core, scene.box)]
        assert list(shard.scenes) == expected
        assert shard.is_mosaic
        for scene in scenes:
            assert (overlap(core, scene.box) is not None) == touches(core, scene.box)


def test_thousands_of_scenes_are_planned_at_once():
    random = np.random.default_rng(3)
    corners = random.integers(0, 90_000, (2000, 2))
    boxes = [Window(row=r, col=c, height=9000, width=8000) for r, c in corners.tolist()]
    frame = surround(scenes_in(boxes))
    scenes = scenes_in(boxes)
    start = time.perf_counter()
    shards = cut(scenes, frame.stop_row, frame.stop_col, side=4096)
    assert time.perf_counter() - start < 5
    assert len(shards) > 500
    counted = sum(len(shard.scenes) for shard in shards)
    sides = random.choice(len(shards), 20)
    for shard in (shards[i] for i in sides):
        wanted = [one.item for one in scenes if touches(shard.block.core, one.box)]
        assert list(shard.scenes) == wanted
    rows = [(box.stop_row - 1) // 4096 - box.row // 4096 + 1 for box in boxes]
    cols = [(box.stop_col - 1) // 4096 - box.col // 4096 + 1 for box in boxes]
    assert counted == sum(r * c for r, c in zip(rows, cols, strict=True))


@given(
    data=st.data(),
    count=st.integers(1, 5),
    by_confidence=st.booleans(),
)
def test_scenes_are_merged_as_a_stack_of_them_would_be(data, count, by_confidence):
    (block,) = cut_blocks(6, 7, 512)
    canvas = Canvas(block, by_confidence=by_confidence, chosen=2)
    random = np.random.default_rng(data.draw(st.integers(0, 2**20)))
    masks = np.full((count, 6, 7), 255, dtype=np.uint8)
    sure = np.full((count, 6, 7), -1, dtype=np.int64)
    for number in range(count):
        row, col = random.integers(0, 5, 2).tolist()
        height, width = random.integers(1, [7 - row, 8 - col]).tolist()
        place = Window(row=row, col=col, height=height, width=width)
        mask = random.choice(np.array([0, 1, 2, 255], dtype=np.uint8), (height, width))
        confidence = random.integers(0, 4, (height, width), dtype=np.uint8)
        confidence[mask == 255] = 0
        # What tells of each pixel which scene it is of.
        planes = np.stack([255 - confidence, np.full_like(mask, number)])
        scene = Segmentation(mask=mask, confidence=confidence, probabilities=planes)
        canvas.add(scene, place)
        inside = np.s_[number, row : row + height, col : col + width]
        masks[inside] = mask
        rank = confidence.astype(np.int64) if by_confidence else 0
        sure[inside] = np.where(mask == 255, -1, rank)
        settled = (masks != 255).any(axis=0).all()
        assert canvas.is_settled(None) == (settled and not by_confidence)
    winner = sure.argmax(axis=0)[np.newaxis]
    expected = np.take_along_axis(masks, winner, axis=0)[0]
    np.testing.assert_array_equal(canvas.found.mask, expected)
    inverse, number = np.where(expected == 255, 0, canvas.found.probabilities)
    assert (number == np.where(expected == 255, 0, winner[0])).all()
    assert (inverse == np.where(expected == 255, 0, 255 - canvas.found.confidence)).all()
    if by_confidence:
        best = np.take_along_axis(sure, winner, axis=0)[0]
        np.testing.assert_array_equal(canvas.found.confidence, best.clip(0))


def test_pixels_that_nobody_wants_need_not_be_settled():
    (block,) = cut_blocks(2, 2, 512)
    canvas = Canvas(block, by_confidence=False)
    one = np.zeros((1, 2), dtype=np.uint8)
    canvas.add(
        Segmentation(mask=one, confidence=one), Window(row=0, col=0, height=1, width=2)
    )
    upper = np.array([[True, True], [False, False]])
    assert canvas.is_settled(upper)
    assert not canvas.is_settled(~upper)
    assert not canvas.is_settled(None)


# Its plan


@pytest.fixture
def shards():
    boxes = [(0, 0, 600, 600), (500, 500, 100, 400), (900, 0, 100, 100)]
    scenes = scenes_in([Window(row=r, col=c, height=h, width=w) for r, c, h, w in boxes])
    refused = Item(uri="/bad.tif", key="bad.tif", size=9, etag="e")
    late = Shard(
        index=4, items=(refused,), refusal=Refusal(code="unsupported", message="no CRS")
    )
    return [*cut(scenes, 1000, 900), late]


def test_a_plan_comes_back(shards, tmp_path):
    path = tmp_path / "plan.parquet"
    totals = write_plan(shards, path, about={})
    assert list(read_plan(path)) == shards
    assert measure_plan(path) == totals
    # Each scene counts once, and what stands for all of them does not.
    assert (totals.items, totals.size, totals.shards) == (4, 0 + 1 + 2 + 9, 5)
    assert totals.pixels == 1000 * 900


def test_the_digest_is_that_of_all_scenes_whatever_the_block(tmp_path):
    def digest(sizes, side, order=1):
        boxes = [Window(row=0, col=300 * i, height=700, width=400) for i in sizes]
        scenes = scenes_in(boxes)[::order]
        path = tmp_path / "plan.parquet"
        return write_plan(cut(scenes, 700, 2000, side), path, about={}).digest

    found = digest(range(5), 512)
    assert found == digest(range(5), 1024) == digest(range(5), 4096)
    assert digest(range(4), 512) != found
    assert digest(range(5), 512, order=-1) != found, "another scene wins"


def test_what_stands_for_a_mosaic_is_no_object():
    own = stand_in("{}", [])
    assert (own.uri, own.key, own.size) == (MOSAIC, MOSAIC, 0)
    assert not own.uri.startswith(("/", "s3://"))


def test_times_sort_as_text():
    east = timezone(timedelta(hours=5))
    times = [
        datetime(2024, 1, 1, 12),  # noqa: DTZ001 - as metadata has it
        datetime(2024, 1, 1, 12, microsecond=1, tzinfo=UTC),
        datetime(2024, 1, 1, 18, tzinfo=east),
        datetime(2024, 1, 1, 13, 1, tzinfo=UTC),
    ]
    texts = [write_time(one) for one in times]
    assert texts == sorted(texts)
    assert texts[0] == "2024-01-01T12:00:00.000000+00:00"
