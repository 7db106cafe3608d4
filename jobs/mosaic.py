"""A mosaic: one raster that is made of scenes which overlap. Pure arithmetic.

Each shard of its plan is a block. It names first an item that stands for the mosaic,
``mosaic.tif``, which is no object, and then the scenes that touch the block, in the
order in which they win. So a block that no scene touches has a shard as well.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np

from deeplab.pictures import NODATA, Segmentation
from deeplab.tiles import Window
from jobs.shards import MOSAIC, Item, Shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from jobs.shards import Block


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A scene and where it lies."""

    item: Item
    box: Window
    """Its pixels on the mosaic's grid, which they may leave."""

    taken: str = ""
    """When, as ISO 8601 in UTC; empty where nobody asked."""


def stand_in(grid: str, scenes: Iterable[Scene]) -> Item:
    """The item that stands for a mosaic; its ETag says what it is made of.

    Args:
        grid: Where it lies.
        scenes: All of them, in the order in which they win.
    """
    digest = hashlib.sha256(grid.encode())
    for scene in scenes:
        item = scene.item
        digest.update(f"{json.dumps([item.uri, item.size, item.etag])}\n".encode())
    return Item(uri=MOSAIC, key=MOSAIC, size=0, etag=digest.hexdigest()[:16])


def write_time(found: datetime) -> str:
    """A time as text that sorts as times do; what names no zone is UTC."""
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return aware.astimezone(UTC).isoformat(timespec="microseconds")


def surround(scenes: Sequence[Scene]) -> Window:
    """The smallest window that holds all scenes; there must be one."""
    row = min(scene.box.row for scene in scenes)
    col = min(scene.box.col for scene in scenes)
    return Window(
        row=row,
        col=col,
        height=max(scene.box.stop_row for scene in scenes) - row,
        width=max(scene.box.stop_col for scene in scenes) - col,
    )


def overlap(one: Window, other: Window) -> Window | None:
    """What two windows share; None where that is nothing."""
    row, col = max(one.row, other.row), max(one.col, other.col)
    height = min(one.stop_row, other.stop_row) - row
    width = min(one.stop_col, other.stop_col) - col
    if height < 1 or width < 1:
        return None
    return Window(row=row, col=col, height=height, width=width)


def moved(window: Window, rows: int, cols: int) -> Window:
    """A window further down and to the right."""
    return Window(
        row=window.row + rows,
        col=window.col + cols,
        height=window.height,
        width=window.width,
    )


def plan_blocks(
    own: Item, blocks: Iterable[Block], scenes: Sequence[Scene]
) -> Iterator[Shard]:
    """A shard for each block, with the scenes that touch it.

    Memory is that of the scenes' boxes; the scenes above and below a row of blocks
    are looked at once for the row.

    Args:
        own: What stands for the mosaic.
        blocks: Row by row.
        scenes: In the order in which they win.
    """
    sides = [(s.box.row, s.box.stop_row, s.box.col, s.box.stop_col) for s in scenes]
    boxes = np.array(sides, dtype=np.int64).reshape(-1, 4)
    row, near = -1, np.empty(0, dtype=np.int64)
    for block in blocks:
        core = block.core
        if core.row != row:
            row = core.row
            near = np.flatnonzero((boxes[:, 0] < core.stop_row) & (boxes[:, 1] > row))
        lefts, rights = boxes[near, 2], boxes[near, 3]
        found = near[(lefts < core.stop_col) & (rights > core.col)]
        items = (scenes[number].item for number in found.tolist())
        yield Shard(index=block.number, items=(own, *items), block=block)


class Canvas:
    """The pixels of one block, as scenes are laid on it one by one.

    A pixel has a class where any scene has one. Where several do, the first one wins,
    or the one that is the most confident, and of two alike the first one.
    """

    def __init__(self, block: Block, *, by_confidence: bool, chosen: int = 0) -> None:
        """Begin without data.

        Args:
            block: Where it lies.
            by_confidence: Whether the most confident scene wins.
            chosen: Classes whose probabilities are wanted as well.
        """
        shape = (block.core.height, block.core.width)
        self.found = Segmentation(
            mask=np.full(shape, NODATA, dtype=np.uint8),
            confidence=np.zeros(shape, dtype=np.uint8),
            probabilities=np.zeros((chosen, *shape), dtype=np.uint8) if chosen else None,
        )
        """What the scenes come to so far."""

        self._by_confidence = by_confidence

    def add(self, scene: Segmentation, place: Window) -> None:
        """Lay a scene on it.

        Args:
            scene: What was found in it, of (H, W) pixels.
            place: Where they lie in the block.
        """
        inside = np.s_[place.row : place.stop_row, place.col : place.stop_col]
        wins = self.found.mask[inside] == NODATA
        if self._by_confidence:
            wins |= scene.confidence > self.found.confidence[inside]
        wins &= scene.mask != NODATA
        for mine, other in zip(_planes(self.found), _planes(scene), strict=True):
            np.copyto(mine[inside], other, where=wins)

    def is_settled(self, wanted: NDArray[np.bool_] | None) -> bool:
        """Whether no further scene can change a pixel.

        Args:
            wanted: bool (H, W): others stay without data; None for all.
        """
        if self._by_confidence:
            return False
        is_open = self.found.mask == NODATA
        if wanted is not None:
            is_open &= wanted
        return not is_open.any()


def _planes(found: Segmentation) -> list[NDArray[np.uint8]]:
    more = () if found.probabilities is None else found.probabilities
    return [found.mask, found.confidence, *more]
