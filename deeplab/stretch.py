"""Probabilities enlarged or reduced to another size, row of tiles by row of tiles.

A picture may be seen at one size and its mask wanted at another. Probabilities are
then interpolated before the best class is taken, as a network's own logits are, so
that borders between classes are smooth and not made of blocks. One class's plane
exists at a time, of the rows at hand.

Shape letters: K classes, H and W the wanted size, R rows at hand, V their columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from torch import Tensor


BAND_PIXELS: Final = 2**20
"""Of the result, made at once: some 40 bytes are held for each."""


class Stretch:
    """Interpolates rows that come in order; centres of corner pixels are not aligned."""

    def __init__(
        self, source: tuple[int, int], target: tuple[int, int], *, device: torch.device
    ) -> None:
        """Nothing has come yet.

        Args:
            source: Rows and columns that will come.
            target: H and W.
            device: Where they are.
        """
        self._device = device
        self._first, self._second, self._share = _neighbours(source[0], target[0])
        left, right, share = _neighbours(source[1], target[1])
        self._left, self._right = self._move(left), self._move(right)
        self._col_share = self._move(share)
        self._come = self._gone = 0
        self._last: Tensor | None = None

    def take(self, sums: Tensor) -> Iterator[tuple[int, int, Stretched]]:
        """Take the next rows, float32 (K, R, V).

        Yields:
            The rows of the result that are complete now: the first, the one behind the
            last, and they themselves, as many at once as memory is wanted for.
        """
        start = self._come - (self._last is not None)
        self._come += sums.shape[1]
        end = int(np.searchsorted(self._second, self._come))
        step = max(1, BAND_PIXELS // len(self._col_share))
        for first in range(self._gone, end, step):
            rows = slice(first, min(first + step, end))
            made = Stretched(
                self._last,
                sums,
                above=self._move(self._first[rows] - start),
                below=self._move(self._second[rows] - start),
                down=self._move(self._share[rows])[:, None],
                across=(self._left, self._right, self._col_share),
            )
            yield first, rows.stop, made
        self._gone = end
        self._last = sums[:, -1:].clone()

    def _move(self, values: NDArray[np.float32] | NDArray[np.intp]) -> Tensor:
        return torch.from_numpy(values).to(self._device)


class Stretched:
    """Rows of the result; a class's plane is made when it is asked for."""

    def __init__(
        self,
        last: Tensor | None,
        sums: Tensor,
        *,
        above: Tensor,
        below: Tensor,
        down: Tensor,
        across: tuple[Tensor, Tensor, Tensor],
    ) -> None:
        """Hold what the rows are made of: the last row of before, and new ones."""
        self._last, self._sums = last, sums
        self._above, self._below, self._down = above, below, down
        self._left, self._right, self._share = across

    def __len__(self) -> int:
        """K."""
        return len(self._sums)

    def __getitem__(self, index: int) -> Tensor:
        """Probabilities of a class, float32 (rows, W)."""
        plane = self._sums[index]
        if self._last is not None:
            plane = torch.cat([self._last[index], plane])
        plane = _between(plane[self._above], plane[self._below], self._down)
        return _between(plane[:, self._left], plane[:, self._right], self._share)


def _neighbours(
    source: int, target: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each wanted position the two given ones beside it, and the second's share."""
    place = (np.arange(target) + 0.5) * (source / target) - 0.5
    place = np.clip(place, 0, source - 1)
    first = np.floor(place).astype(np.intp)
    return first, np.minimum(first + 1, source - 1), (place - first).astype(np.float32)


def _between(first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return first * (1 - share) + second * share
