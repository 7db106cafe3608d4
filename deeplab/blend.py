"""Class probabilities of overlapping tiles, blended one row of tiles at a time.

Sums are held for the rows of one row of tiles only. When it is complete, the
rows that no later tile touches become class ids and confidence, and bytes of
the classes whose probabilities are asked for, and the sums move down. Where the
result is wanted at another size, they are interpolated first.

The result of a pixel has the same bits in whatever window it is asked for: its
tiles are added in the order of the grid, row by row, and products and sums are
rounded one by one, never fused.

Shape letters: K classes, S and T a tile's rows and columns, W the window's width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from deeplab.entropy import entropy_of
from deeplab.ramps import compute_ramp
from deeplab.stretch import Stretch
from deeplab.transfer import Landing, empty_on_host, to_device

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from deeplab.cut import Tile
    from deeplab.pictures import Wanted
    from deeplab.results import Found
    from deeplab.stretch import Stretched
    from deeplab.tiles import TileGrid, Window


class Blend:
    """Sums weighted probabilities over a window of a raster."""

    def __init__(
        self,
        grid: TileGrid,
        window: Window,
        *,
        classes: int,
        device: torch.device,
        wanted: Wanted,
        size: tuple[int, int] | None = None,
    ) -> None:
        """Start with sums of zero.

        Args:
            grid: The raster's tiles.
            window: Pixels wanted, in raster coordinates.
            classes: K, at most 254.
            device: Where the probabilities are.
            wanted: Besides classes and confidence.
            size: Rows and columns of the result; None for those of the window.
        """
        self._rows, self._columns = grid.rows, grid.columns
        self._window = window
        self._device = device
        touching = self._rows.touching(window.row, window.stop_row)
        self._row, self._stop_row = touching.start, touching.stop
        self._row_weights = self._to_device(compute_ramp(self._rows, self._row))
        self._col_weights = {
            col: self._to_device(compute_ramp(self._columns, col))
            for col in self._columns.touching(window.col, window.stop_col)
        }
        self._sums = torch.zeros(classes, grid.rows.tile, window.width, device=device)
        self._stretch = size and Stretch((window.height, window.width), size, device=device)
        self._ids = np.zeros(size or (window.height, window.width), dtype=np.uint8)
        self._confidence = np.zeros_like(self._ids)
        self._chosen = wanted.probabilities
        self._probabilities = np.zeros((len(self._chosen), *self._ids.shape), np.uint8)
        self._entropy = np.zeros(self._ids.shape, np.int16) if wanted.entropy else None
        self._landings: list[tuple[slice, Landing]] = []

    def add(self, tile: Tile, probabilities: Tensor) -> None:
        """Add a tile's probabilities, float32 (K, S, T); tiles come in order."""
        while self._row < tile.row:
            self._advance()
        start = tile.col * self._columns.stride
        left = max(start, self._window.col)
        right = min(start + self._columns.tile, self._window.stop_col)
        inside = slice(left - start, right - start)
        weights = self._row_weights[:, None] * self._col_weights[tile.col][inside]
        # Two operations: a fused one rounds once, and not on every lane.
        weighted = probabilities[:, :, inside] * weights
        self._sums[:, :, left - self._window.col : right - self._window.col] += weighted

    def end(self) -> None:
        """No tile is left: hand out all rows."""
        while self._row < self._stop_row:
            self._advance()
        self._sums = self._sums[:, :0].clone()

    def finish(self) -> Found:
        """After ``end``, wait for the rows; any thread may.

        Returns:
            Class ids and confidence, uint8 (H, W) of the result, and probabilities.
            Confidence is 255 times the winner's probability, rounded, and so is each
            of the chosen classes' probabilities, uint8 (chosen, H, W). The lowest id
            wins a tie. Last the entropy, where it was asked for. Pixels that no tile
            was added for get 0 of everything.

        Raises:
            FloatingPointError: A probability is not a number.
        """
        self._land()
        return self._ids, self._confidence, self._probabilities, self._entropy

    def _advance(self) -> None:
        """Hand out the rows that are complete, and move down one row of tiles."""
        axis = self._rows
        is_last = self._row == self._stop_row - 1
        self._emit(axis.tile if is_last else axis.stride)
        self._row += 1
        if not is_last:
            self._move_up(axis.stride)
            self._row_weights = self._to_device(compute_ramp(axis, self._row))

    def _move_up(self, stride: int) -> None:
        """Move the sums up by a stride, in place: torch copies nothing onto itself."""
        kept = self._rows.tile - stride
        for top in range(0, kept, stride):
            bottom = min(top + stride, kept)
            self._sums[:, top:bottom] = self._sums[:, top + stride : bottom + stride]
        self._sums[:, kept:] = 0

    def _emit(self, rows: int) -> None:
        """Turn the window's part of the first rows of sums into ids."""
        start = self._row * self._rows.stride
        top = max(start, self._window.row)
        bottom = min(start + rows, self._window.stop_row)
        if top >= bottom:
            return
        sums = self._sums[:, top - start : bottom - start]
        if self._stretch is None:
            self._hand_out(top - self._window.row, bottom - self._window.row, sums)
            return
        for first, stop, planes in self._stretch.take(sums):
            self._hand_out(first, stop, planes)

    def _hand_out(self, first: int, stop: int, planes: Tensor | Stretched) -> None:
        """Turn rows of the result into ids."""
        ids, best = _argmax(planes)
        # One row behind: the host tells the device of the next before it waits.
        self._land()
        chosen = [to_bytes(planes[index]) for index in self._chosen]
        if self._entropy is not None:
            chosen.append(entropy_of(planes))
        landing = Landing(best.isfinite().all(), ids, to_bytes(best), *chosen)
        self._landings.append((slice(first, stop), landing))

    def _land(self) -> None:
        """Wait for the rows under way."""
        while self._landings:
            rows, landing = self._landings.pop()
            is_finite, ids, confidence, *chosen = landing.wait()
            check_numbers(is_finite=bool(is_finite))
            self._ids[rows], self._confidence[rows] = ids, confidence
            if self._entropy is not None:
                self._entropy[rows] = chosen.pop()
            for plane, values in zip(self._probabilities, chosen, strict=True):
                plane[rows] = values

    def _to_device(self, weights: NDArray[np.float32]) -> Tensor:
        host = empty_on_host(weights.shape, self._device, torch.float32)
        host.numpy()[:] = weights
        return to_device(host, self._device)


def check_numbers(*, is_finite: bool) -> None:
    """Raise a FloatingPointError where not all probabilities are numbers."""
    if not is_finite:
        raise FloatingPointError(
            "the network gave probabilities that are not numbers; use precision "
            "fp32, or check the bundle's weights, mean and std"
        )


def to_bytes(probability: Tensor) -> Tensor:
    """255 times a probability that is a number, rounded: float32 to uint8."""
    return (probability * 255).round_().to(torch.uint8)


def _argmax(planes: Tensor | Stretched) -> tuple[Tensor, Tensor]:
    """Ids uint8 and values of the greatest of K planes; the lowest id wins a tie.

    Faster than ``Tensor.max`` on a CPU, and never an int64 per pixel.
    """
    best = planes[0].clone()
    ids = torch.zeros_like(best, dtype=torch.uint8)
    for index in range(1, len(planes)):
        plane = planes[index]
        ids.masked_fill_(plane > best, index)
        torch.maximum(best, plane, out=best)
    return ids, best
