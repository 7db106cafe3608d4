"""Groups of images whose tiles fill the device's batches.

Batches hold tiles of one shape, and images of many sizes have tiles of many shapes. So
a group grows until few slots of its last batches would be empty, or until it holds as
much as it may. Results do not depend on it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from deeplab.pictures import Picture, count_tiles
from jobs.ledger import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deeplab.tiles import Tiling
    from jobs.job import Image

_BATCHES: Final = 8
"""Batches that a group fills at least."""

_EMPTY: Final = 1 / 32
"""Share of empty slots at which a group of many shapes is good enough.

With batches of 16 and photographs of 640 by 360 to 640 px in tiles of 512 px, 9 % of
what the network sees is padding in groups of 512 images, and 36 % in groups of 64.
"""

HELD_BYTES: Final = 1536 * 2**20
"""What images of a group and their results take: 650 photographs of 640 x 480 px."""


def gather(
    images: Iterable[Image | DeadLetter], tiling: Tiling, batch: int
) -> Iterator[list[Image | DeadLetter]]:
    """Group images, and the dead letters between them, in order.

    Args:
        images: Decoded.
        tiling: How they are cut.
        batch: Slots of a batch; with one each image is a group of its own.
    """
    group: list[Image | DeadLetter] = []
    shapes: Counter[tuple[int, int]] = Counter()
    held = 0
    for image in images:
        group.append(image)
        if not isinstance(image, DeadLetter):
            shape, count = count_tiles(to_picture(image), tiling)
            shapes[shape] += count
            held += _bytes_of(image)
        del image
        if _is_full(shapes, batch, held):
            yield group
            group, held = [], 0
            shapes.clear()
    if group:
        yield group


def _is_full(shapes: Counter[tuple[int, int]], batch: int, held: int) -> bool:
    if held >= HELD_BYTES:
        return True
    tiles = shapes.total()
    if tiles < (1 if batch == 1 else _BATCHES * batch):
        return False
    slots = sum(-(-count // batch) * batch for count in shapes.values())
    return len(shapes) == 1 or slots - tiles <= _EMPTY * slots


def _bytes_of(image: Image) -> int:
    """What an image takes until its result is written, and the result."""
    given = image.pixels.nbytes + image.valid.nbytes
    truth = 0 if image.truth is None else image.truth.ids.nbytes
    # Class ids and confidence, and the entropy of each pixel in two bytes.
    return given + truth + 4 * math.prod(image.size or image.valid.shape)


def to_picture(image: Image) -> Picture:
    """What the network is shown of an image."""
    return Picture(
        pixels=image.pixels, valid=image.valid, region=image.region, size=image.size
    )
