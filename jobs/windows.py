"""Cut a raster into blocks of output pixels. Pure arithmetic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.tiles import Window
from jobs.errors import InputError
from jobs.shards import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

COG_TILE: Final = 512
"""Side of the tiles inside a COG, in px; a block holds whole ones."""


def check_block(block: int) -> None:
    """Refuse a block side that would cut a COG tile.

    Raises:
        InputError: ``block`` is not a positive multiple of 512.
    """
    if block < COG_TILE or block % COG_TILE:
        raise InputError(f"block must be a multiple of {COG_TILE} px, got {block}")


def count_blocks(height: int, width: int, block: int) -> int:
    """How many blocks cover a raster."""
    return -(-height // block) * -(-width // block)


def cut_blocks(height: int, width: int, block: int, *, grid: str = "") -> Iterator[Block]:
    """The blocks of a raster, row by row; the last ones end at its edge.

    Args:
        height: Rows of the raster.
        width: Its columns.
        block: Side of a block, in px.
        grid: Where the raster lies, which the first block tells.
    """
    number = 0
    for row in range(0, height, block):
        for col in range(0, width, block):
            core = Window(
                row=row,
                col=col,
                height=min(block, height - row),
                width=min(block, width - col),
            )
            yield Block(
                number=number,
                core=core,
                height=height,
                width=width,
                grid="" if number else grid,
            )
            number += 1


def count_decoded(
    window: Window, stored: tuple[int, int] | None, size: tuple[int, int]
) -> int:
    """Pixels that are decoded to read a window; 0 where that is not known.

    Args:
        window: Inside the raster.
        stored: Rows and columns of the tiles or strips that are decoded as a whole.
        size: Rows and columns of the raster, past which there is nothing to decode.
    """
    if stored is None:
        return 0
    ends = (window.row, window.stop_row), (window.col, window.stop_col)
    height, width = (
        min(-(-stop // step) * step, last) - start // step * step
        for (start, stop), step, last in zip(ends, stored, size, strict=True)
    )
    return height * width


def amplification(decoded: int, pixels: int) -> float | None:
    """How often a pixel is decoded on average; None where that is not known."""
    return round(decoded / pixels, 2) if pixels else None


def slice_of(outer: Window, inner: Window) -> tuple[slice, slice]:
    """Rows and columns of a window in an array of the one around it."""
    row, col = inner.row - outer.row, inner.col - outer.col
    return slice(row, row + inner.height), slice(col, col + inner.width)
