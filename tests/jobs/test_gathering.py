"""Groups of images: how full their batches are, and how much they hold."""

import math
import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from deeplab.pictures import count_tiles
from deeplab.tiles import Region, TileGrid, Tiling, Window
from jobs.gathering import HELD_BYTES, gather, to_picture
from jobs.job import Image
from jobs.ledger import DeadLetter
from jobs.shards import Item

TILING = Tiling(tile=512, overlap=128)
LETTER = DeadLetter(uri="/x", key="x", stage="read", code="c", message="m")


def make_image(height, width, region=None):
    """An image of one byte, seen as large as it says."""
    return Image(
        item=Item(uri="/a", key="a", size=1, etag="e"),
        pixels=np.broadcast_to(np.uint8(7), (3, height, width)),
        valid=np.broadcast_to(np.True_, (height, width)),
        region=region,
    )


def photographs(count, seed=0):
    """As in COCO: 640 px long and 360 to 640 px short, often 480 or about 427."""
    draw = random.Random(seed)
    for _ in range(count):
        short = draw.choice([480, draw.randint(424, 428), draw.randint(360, 640)])
        size = (short, 640) if draw.random() < 0.72 else (640, short)
        yield make_image(*size)


def measure(groups, batch):
    """Px that the network sees, px of them that are padding, and the largest group."""
    seen = own = largest = 0
    for group in groups:
        slots = Counter()
        largest = max(largest, sum(8 * image.valid.size for image in group))
        for image in group:
            shape, count = count_tiles(to_picture(image), TILING)
            slots[shape] += count
            grid = TileGrid(
                height=image.valid.shape[0],
                width=image.valid.shape[1],
                tiling=TILING,
                fitted=True,
            )
            down, across = (
                sum(min(axis.tile, axis.size - i * axis.stride) for i in range(axis.count))
                for axis in (grid.rows, grid.columns)
            )
            own += down * across
        seen += sum(
            -(-count // batch) * batch * math.prod(shape) for shape, count in slots.items()
        )
    return seen, seen - own, largest


@pytest.mark.parametrize(("batch", "images", "most"), [(1, 300, 0.04), (16, 2600, 0.1)])
def test_little_of_what_is_seen_of_photographs_is_padding(batch, images, most):
    groups = list(gather(photographs(images), TILING, batch))
    seen, padding, largest = measure(groups, batch)
    assert sum(map(len, groups)) == images
    assert 0 < padding / seen < most
    assert largest < HELD_BYTES + 8 * 640 * 640
    # In square tiles of the bundle's size it would be a third at least.
    square = [
        sum(min(512, side - i * 384) for i in range(2 if side > 512 else 1))
        / (1024 if side > 512 else 512)
        for image in photographs(images)
        for side in image.valid.shape
    ]
    assert 1 - np.mean(np.multiply(square[::2], square[1::2])) > 0.3


def test_a_stream_is_cut_where_it_holds_enough_and_keeps_its_order():
    images = list(photographs(1500, seed=4))
    images[3:3] = [LETTER]
    groups = list(gather(iter(images), TILING, 16))
    assert [one for group in groups for one in group] == images
    assert len(groups) > 1


def test_images_of_one_shape_wait_for_eight_batches_alone():
    images = [make_image(500, 300) for _ in range(300)]
    assert [len(group) for group in gather(images, TILING, 16)] == [128, 128, 44]
    assert [len(group) for group in gather(images[:3], TILING, 1)] == [1, 1, 1]


def test_a_batch_of_one_gives_dead_letters_with_the_next_image():
    images = [LETTER, LETTER, make_image(9, 9), make_image(9, 2000), LETTER]
    assert [len(group) for group in gather(images, TILING, 1)] == [3, 1, 1]
    assert [len(group) for group in gather([LETTER], TILING, 16)] == [1]


def test_blocks_of_rasters_are_grouped_by_their_square_tiles():
    core = Window(row=0, col=0, height=4096, width=4096)
    grid = TileGrid(height=9000, width=4096, tiling=TILING)
    read = grid.reach(core)
    region = Region(height=9000, width=4096, core=core, read=read)
    blocks = [make_image(read.height, read.width, region) for _ in range(4)]
    assert count_tiles(to_picture(blocks[0]), TILING) == ((512, 512), 11 * 11)
    assert [len(group) for group in gather(blocks, TILING, 16)] == [2, 2]


def test_results_of_images_that_were_resized_count(monkeypatch):
    monkeypatch.setattr("jobs.gathering.HELD_BYTES", 10 * 2**20)
    images = [replace(make_image(300, 400), size=(1000, 1500)) for _ in range(64)]
    groups = list(gather(images, TILING, 16))
    assert sum(map(len, groups)) == 64
    assert max(map(len, groups)) == 2
