"""Segmentation of images and rasters of any size by a network that sees tiles.

A raster may be segmented whole or region by region: a pixel's result has the
same bits either way, because tiles lie on one grid anchored at the raster's
origin, the device always sees batches of one shape, and overlapping tiles are
blended in one order. An image is always whole, so its tiles fit it, and those of
one shape share batches. Memory is bounded by one batch and one row of tiles.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from deeplab.fold import fold
from deeplab.memory import with_less_memory
from deeplab.multi_scale import view_logits
from deeplab.pictures import (
    NOTHING,
    Picture,
    Wanted,
    beside,
    cut_picture,
    mark_nodata,
)
from deeplab.results import Results
from deeplab.seen import Seen
from deeplab.transfer import empty_on_host, to_device
from deeplab.views import PLAIN
from deeplab.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deeplab.bundle import Bundle
    from deeplab.cut import Cutter, Tile
    from deeplab.pictures import Segmentation
    from deeplab.results import Found
    from deeplab.tiles import Region, Tiling
    from deeplab.views import Views

    Work = tuple[list[Cutter], Wanted, Views]
    """What to segment, the classes whose probabilities are wanted, and in which views."""

    Told = tuple[list[Callable[[], Found]], Seen, float]
    """What waits for the results, what the network sees, and when that began."""


class Segmenter:
    """A network on a device, and the one thread that talks to it.

    ``segment`` may be called from many threads; calls wait for each other.
    Close it, or use it in a ``with`` statement, to end its thread.
    """

    def __init__(
        self,
        model: nn.Module,
        bundle: Bundle,
        *,
        device: str = "cpu",
        precision: Literal["fp32", "bf16"] = "fp32",
        batch: int = 1,
        threads: int | None = None,
    ) -> None:
        """Take a network's inference form to the device; the network itself stays.

        Args:
            model: Maps normalised (N, bands, H, W) to logits (N, K, H, W); where it
                has a ``classify``, that gives them before they are enlarged.
            bundle: Says how to use it.
            device: ``cpu``, ``cuda``, or ``auto`` for ``cuda`` where there is one.
            precision: ``bf16`` computes convolutions in bfloat16.
            batch: Tiles that the device sees at once, always this many. On a
                CPU one is fastest.
            threads: CPU threads of an operation, None for torch's own choice.
                The last bits of a result may depend on it.

        Raises:
            ValueError: An argument is none of the allowed values.
        """
        if precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {precision!r}")
        if batch < 1 or (threads is not None and threads < 1):
            raise ValueError(
                f"batch and threads must be at least 1, got {batch=}, {threads=}"
            )
        self.bundle = bundle
        self.precision = precision
        self.batch = batch
        self.threads = threads
        self._device = find_device(device)
        self._thread = ThreadPoolExecutor(1, "segmenter")
        self._align_corners = bundle.network.choices.align_corners
        self._model = self._thread.submit(self._adopt, model).result()
        self._classify = getattr(self._model, "classify", self._model)

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        device: str = "auto",
        precision: Literal["fp32", "bf16"] = "fp32",
        batch: int = 1,
        threads: int | None = None,
    ) -> Self:
        """Load a bundle's network; see ``__init__`` for the arguments.

        Raises:
            ValueError: The file is no bundle, or an argument is not allowed.
            OSError: The file cannot be opened.
        """
        model, bundle = load_model(path)
        return cls(
            model, bundle, device=device, precision=precision, batch=batch, threads=threads
        )

    def segment(
        self,
        pixels: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        *,
        region: Region | None = None,
        tiling: Tiling | None = None,
        batch: int | None = None,
        probabilities: Sequence[int] = (),
    ) -> Segmentation:
        """Find the class of every pixel of an image, or of a raster's region.

        Where the device's memory is too small for a batch, half of it is tried, and
        half of that; the last bits of probabilities may depend on the batch.

        Args:
            pixels: uint8 (bands, H, W) over ``region.read``.
            valid: bool (H, W), False where there is no data.
            region: What the pixels are of a larger raster, and which of them
                are wanted; None for a whole image.
            tiling: How tiles are cut and blended; None for the bundle's own way.
            batch: Tiles at once in this call; None for the segmenter's own number.
            probabilities: Ids of classes whose probabilities are wanted as well; they
                change neither mask nor confidence.

        Returns:
            Mask, confidence and probabilities of ``region.core``, or of the image.

        Raises:
            MemoryError: The device cannot hold a single tile.
            ValueError: Shapes, types or windows do not fit, or it is closed.
            FloatingPointError: The network gave values that are not numbers.
        """
        picture = Picture(pixels=pixels, valid=valid, region=region)
        (found,) = self.segment_all(
            [picture], tiling=tiling, batch=batch, wanted=Wanted(tuple(probabilities))
        )
        return found

    def segment_all(
        self,
        pictures: Sequence[Picture],
        *,
        tiling: Tiling | None = None,
        batch: int | None = None,
        wanted: Wanted = NOTHING,
        views: Views = PLAIN,
        seen: Seen | None = None,
    ) -> list[Segmentation]:
        """Segment many pictures, whose tiles share batches, so that small ones fill them.

        A batch holds tiles of one shape. Each picture has the bits that it has alone.

        Args:
            pictures: What to segment; see ``segment``, also for what is raised where
                one of them gives cause to.
            tiling: As in ``segment``.
            batch: As in ``segment``.
            wanted: Besides classes and confidence.
            views: Forms in which each tile is seen; they share its probability.
            seen: Gets what the network saw added.

        Returns:
            One segmentation for each picture, in order.
        """
        self._check_chosen(wanted.probabilities)
        if not pictures:
            return []
        for picture in pictures:
            self._check_pixels(picture.pixels, picture.valid)
        tiling = tiling or self.bundle.tiling
        cutters = [cut_picture(picture, tiling) for picture in pictures]
        tiles = list(itertools.chain(*cutters))
        segment = functools.partial(self._submit, (tiles, wanted, views))
        results, counted, start = with_less_memory(segment, batch or self.batch)
        found = iter(results)
        # While nodata is marked here, the device is at the next call.
        segmentations = [
            beside([mark_nodata(cutter, next(found)()) for cutter in own])
            for own in cutters
        ]
        counted.seconds = time.perf_counter() - start
        if seen is not None:
            seen.add(counted)
        return segmentations

    def close(self) -> None:
        """Wait for running calls, then end the thread; a second call is free."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        """Return the segmenter itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _submit(self, work: Work, batch: int) -> Told:
        try:
            return self._thread.submit(self._segment, work, batch).result()
        except RuntimeError as error:
            if str(error).startswith("cannot schedule"):
                raise ValueError("segmenter is closed; make a new one") from error
            raise

    def _check_pixels(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> None:
        bands = len(self.bundle.bands)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or len(pixels) != bands:  # noqa: PLR2004
            raise ValueError(
                f"pixels must be uint8 ({bands}, H, W), got {pixels.dtype} {pixels.shape}"
            )
        if valid.dtype != np.bool_ or valid.shape != pixels.shape[1:]:
            raise ValueError(
                f"valid must be bool {pixels.shape[1:]}, got {valid.dtype} {valid.shape}"
            )

    def _check_chosen(self, chosen: Sequence[int]) -> None:
        classes = len(self.bundle.classes)
        if not all(0 <= one < classes for one in chosen):
            raise ValueError(
                f"probabilities must be classes 0 to {classes - 1}, got {tuple(chosen)}"
            )

    def _adopt(self, model: nn.Module) -> nn.Module:
        """Set up the thread; move the network and its normalisation to the device."""
        if self.threads:
            # The count belongs to the calling thread, which takes over the process's
            # own when it first asks; so let it ask, then set.
            torch.get_num_threads()
            torch.set_num_threads(self.threads)
        shape = (1, len(self.bundle.bands), 1, 1)
        mean, std = torch.tensor(self.bundle.mean), torch.tensor(self.bundle.std)
        self._mean = (255 * mean).reshape(shape).to(self._device)
        self._std = (255 * std).reshape(shape).to(self._device)
        # Channels last: 1.25 times faster for MobileNetV2 on one CPU thread.
        return fold(model).to(self._device).to(memory_format=torch.channels_last)

    def _segment(self, work: Work, batch: int) -> Told:
        """Tell the device all that there is to do; others wait for it."""
        cutters, wanted, views = work
        seen, start = Seen(), time.perf_counter()
        results = Results(
            cutters,
            classes=len(self.bundle.classes),
            device=self._device,
            wanted=wanted,
            align_corners=self._align_corners,
        )
        tiles = ((index, tile) for index, one in enumerate(cutters) for tile in one.tiles())
        shapes: dict[tuple[int, int], list[tuple[int, Tile]]] = {}
        for index, tile in tiles:
            shapes.setdefault(cutters[index].grid.shape, []).append((index, tile))
        with torch.inference_mode(), _exact(self._device):
            for shape, slots in shapes.items():
                for some, pixels in self._cut(cutters, shape, slots, batch):
                    seen.add(_count(cutters, some, batch))
                    results.add(some, *self._predict(pixels, views))
            return results.end(), seen, start

    def _cut(
        self,
        cutters: list[Cutter],
        shape: tuple[int, int],
        slots: list[tuple[int, Tile]],
        batch: int,
    ) -> Iterator[tuple[list[tuple[int, Tile]], Tensor]]:
        """Batches of tiles of one shape, in order: uint8 (N, bands + 1, S, T)."""
        planes, width = len(self.bundle.bands) + 1, shape[1]
        pixels = torch.zeros(batch, planes, *shape, dtype=torch.uint8, device=self._device)
        band, at = pixels[0], (-1, -1)
        for first in range(0, len(slots), batch):
            some = slots[first : first + batch]
            for slot, (index, tile) in enumerate(some):
                if at != (index, tile.row):
                    band, at = self._bring(cutters[index], tile.row), (index, tile.row)
                left = cutters[index].left(tile)
                pixels[slot] = band[:, :, left : left + width]
            # The last batch has empty slots, which give results for no tile.
            pixels[len(some) :, -1] = 0
            yield some, pixels

    def _bring(self, cutter: Cutter, row: int) -> Tensor:
        """A row of tiles on the device: a tile's columns are shared, so sent once."""
        planes = len(self.bundle.bands) + 1
        host = empty_on_host((planes, cutter.grid.shape[0], cutter.width), self._device)
        cutter.fill(row, host.numpy())
        return to_device(host, self._device)

    def _predict(self, pixels: Tensor, views: Views) -> list[Tensor]:
        """Logits float32 (N, K, h, w) of each view of pixels and their validity."""
        x = pixels[:, :-1].to(torch.float32, memory_format=torch.channels_last)
        x = x.sub_(self._mean).div_(self._std)
        x.masked_fill_(pixels[:, -1:] == 0, 0)  # normalised, the mean is 0
        if views.is_plain:
            return [self._see(x)]
        return view_logits(self._see, x, views, self.bundle.network)

    def _see(self, x: Tensor) -> Tensor:
        """Map normalised (N, bands, H, W) to logits float32 (N, K, h, w)."""
        with torch.autocast(
            self._device.type, torch.bfloat16, enabled=self.precision == "bf16"
        ):
            logits: Tensor = self._classify(x)
        count, classes = len(x), len(self.bundle.classes)
        if logits.ndim != x.ndim or logits.shape[:2] != (count, classes):
            raise ValueError(
                f"logits must have shape ({count}, {classes}, h, w), "
                f"got {tuple(logits.shape)}"
            )
        return logits.float()


def _count(cutters: list[Cutter], slots: list[tuple[int, Tile]], batch: int) -> Seen:
    """What the network sees in a batch."""
    height, width = cutters[slots[0][0]].grid.shape
    pixels = batch * height * width
    inside = sum(cutters[index].inside(tile) for index, tile in slots)
    return Seen(tiles=len(slots), pixels=pixels, padding=pixels - inside)


def find_device(name: str) -> torch.device:
    """Resolve ``auto``, ``cpu`` or ``cuda``; ``auto`` is ``cuda`` where there is one.

    Raises:
        ValueError: Another name, or ``cuda`` where torch finds none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise ValueError("device must be cpu, got cuda; torch finds no CUDA device here")
    return torch.device("cuda" if name != "cpu" and has_cuda else "cpu")


def _exact(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """On CUDA: float32 without shortcuts, and the same kernels every time."""
    if device.type == "cpu":
        return contextlib.nullcontext()
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
