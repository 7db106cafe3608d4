"""What is found of many pictures, whose tiles come in batches that they share.

The device is told what to do, and nobody waits for it here: a result is a function
that waits, to be called when it is wanted.

Shape letters: N slots of a batch, K classes, h and w the logits, H and W a picture's
core.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import torch

from deeplab.blend import Blend, check_numbers, to_bytes
from deeplab.entropy import enlarged_entropy
from deeplab.multi_scale import mean_probability
from deeplab.resize import enlarged_probability, enlarged_winner
from deeplab.transfer import Landing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from deeplab.cut import Cutter, Tile
    from deeplab.pictures import Wanted

    Found = tuple[
        NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int16] | None
    ]
    """Class ids and confidence (H, W), probabilities (chosen, H, W), and entropy (H, W)
    where it was asked for."""


class Results:
    """Takes logits of tiles, and gives each picture's classes."""

    def __init__(
        self,
        cutters: Sequence[Cutter],
        *,
        classes: int,
        device: torch.device,
        wanted: Wanted,
        align_corners: bool,
    ) -> None:
        """Start with nothing found.

        Args:
            cutters: Of the pictures.
            classes: K, at most 254.
            device: Where the logits are.
            wanted: Besides classes and confidence.
            align_corners: How logits are enlarged; see ``resize``.
        """
        self._cutters = cutters
        self._classes, self._wanted = classes, wanted
        self._device, self._align_corners = device, align_corners
        self._blend: Blend | None = None
        self._blended = -1
        self._found: list[Callable[[], Found]] = [
            functools.partial(_find_nothing, cutter, wanted) for cutter in cutters
        ]

    def add(
        self, slots: Sequence[tuple[int, Tile]], logits: Tensor, *others: Tensor
    ) -> None:
        """Take a batch, float32 (N, K, h, w).

        Args:
            slots: The picture's index and the tile, for the first slots of the batch,
                all of one shape; a picture's tiles come together and in order.
            logits: Of all slots.
            others: The same of other views; probabilities are averaged.
        """
        alone = [
            n for n, (index, _) in enumerate(slots) if not others and self._is_alone(index)
        ]
        if alone:
            # Not by a list of indices, which the device would have to be sent.
            self._win(
                [slots[n][0] for n in alone], torch.cat([logits[n : n + 1] for n in alone])
            )
        for n, (index, tile) in enumerate(slots):
            if others or not self._is_alone(index):
                views = [view[n : n + 1] for view in (logits, *others)]
                self._add_blended(index, tile, views)

    def end(self) -> list[Callable[[], Found]]:
        """No tile is left: functions that wait for the pictures' results, in order.

        They raise a FloatingPointError where a probability is not a number.
        """
        if self._blend is not None:
            self._blend.end()
        return self._found

    def _is_alone(self, index: int) -> bool:
        cutter = self._cutters[index]
        return cutter.grid.count == 1 and cutter.size is None

    def _win(self, indices: list[int], logits: Tensor) -> None:
        """Pictures of one tile: their K planes never exist."""
        shape = self._cutters[indices[0]].grid.shape
        ids, best, sure = enlarged_winner(logits, shape, align_corners=self._align_corners)
        chosen = (
            enlarged_probability(logits, one, best, sure, align_corners=self._align_corners)
            for one in self._wanted.probabilities
        )
        planes = [to_bytes(plane) for plane in (sure, *chosen)]
        if self._wanted.entropy:
            planes.append(
                enlarged_entropy(logits, best, sure, align_corners=self._align_corners)
            )
        landing = Landing(sure.isfinite().all(), ids, *planes)
        for place, index in enumerate(indices):
            self._found[index] = functools.partial(
                _crop, self._cutters[index], landing, place, self._wanted
            )

    def _add_blended(self, index: int, tile: Tile, views: Sequence[Tensor]) -> None:
        """Pictures of several tiles or views: one tile's K planes at once."""
        cutter = self._cutters[index]
        if self._blend is None or index != self._blended:
            if self._blend is not None:
                self._blend.end()
            self._blended = index
            self._blend = Blend(
                cutter.grid,
                cutter.region.core,
                classes=self._classes,
                device=self._device,
                wanted=self._wanted,
                size=cutter.size,
            )
            self._found[index] = self._blend.finish
        probabilities = mean_probability(
            views, cutter.grid.shape, align_corners=self._align_corners
        )
        self._blend.add(tile, probabilities[0])


def _crop(cutter: Cutter, landing: Landing, place: int, wanted: Wanted) -> Found:
    is_finite, *planes = landing.wait()
    check_numbers(is_finite=bool(is_finite))
    core = cutter.region.core
    rows, cols = slice(core.row, core.stop_row), slice(core.col, core.stop_col)
    ids, confidence, *chosen = (plane[place, rows, cols].copy() for plane in planes)
    undecided = chosen.pop() if wanted.entropy else None
    return ids, confidence, np.array(chosen, np.uint8).reshape(-1, *ids.shape), undecided


def _find_nothing(cutter: Cutter, wanted: Wanted) -> Found:
    """No tile holds data."""
    core = cutter.region.core
    size = cutter.size or (core.height, core.width)
    ids, confidence, *planes = np.zeros((2 + len(wanted.probabilities), *size), np.uint8)
    undecided = np.zeros(ids.shape, np.int16) if wanted.entropy else None
    return ids, confidence, np.array(planes, np.uint8).reshape(-1, *ids.shape), undecided
