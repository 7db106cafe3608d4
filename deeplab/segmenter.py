"""Segmentation of rasters of any size by a network that sees fixed tiles.

A raster may be segmented whole or region by region: a pixel's result has the
same bits either way, because tiles lie on one grid anchored at the raster's
origin, the device always sees batches of one shape, and overlapping tiles are
blended in one order. Memory is bounded by one batch and one row of tiles.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from deeplab.fold import fold
from deeplab.memory import with_less_memory
from deeplab.pictures import Picture, beside, cut_picture, mark_nodata
from deeplab.results import Results
from deeplab.transfer import empty_on_host, to_device
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
            [picture], tiling=tiling, batch=batch, probabilities=probabilities
        )
        return found

    def segment_all(
        self,
        pictures: Sequence[Picture],
        *,
        tiling: Tiling | None = None,
        batch: int | None = None,
        probabilities: Sequence[int] = (),
        entropy: bool = False,
    ) -> list[Segmentation]:
        """Segment many pictures, whose tiles share batches, so that small ones fill them.

        Each has the bits that it has alone. See ``segment`` for the other arguments,
        and for what is raised, where one of the pictures gives cause to.

        Args:
            pictures: What to segment.
            tiling: See ``segment``, and so of the next two.
            batch: As there.
            probabilities: As there.
            entropy: Whether that of probabilities is wanted; it changes nothing else.

        Returns:
            One segmentation for each picture, in order.
        """
        self._check_chosen(probabilities)
        if not pictures:
            return []
        for picture in pictures:
            self._check_pixels(picture.pixels, picture.valid)
        tiling = tiling or self.bundle.tiling
        cutters = [cut_picture(picture, tiling) for picture in pictures]
        segment = functools.partial(
            self._submit,
            list(itertools.chain(*cutters)),
            tuple(probabilities),
            entropy=entropy,
        )
        found = iter(with_less_memory(segment, batch or self.batch))
        # While nodata is marked here, the device is at the next call.
        return [
            beside([mark_nodata(cutter, next(found)()) for cutter in own])
            for own in cutters
        ]

    def close(self) -> None:
        """Wait for running calls, then end the thread; a second call is free."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        """Return the segmenter itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _submit(
        self, cutters: list[Cutter], chosen: tuple[int, ...], batch: int, *, entropy: bool
    ) -> list[Callable[[], Found]]:
        try:
            return self._thread.submit(
                self._segment, cutters, chosen, batch, entropy=entropy
            ).result()
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

    def _segment(
        self, cutters: list[Cutter], chosen: tuple[int, ...], batch: int, *, entropy: bool
    ) -> list[Callable[[], Found]]:
        """Tell the device all that there is to do; others wait for it."""
        results = Results(
            cutters,
            classes=len(self.bundle.classes),
            device=self._device,
            chosen=chosen,
            align_corners=self._align_corners,
            entropy=entropy,
        )
        with torch.inference_mode(), _exact(self._device):
            for slots, logits in self._predict_all(cutters, batch):
                results.add(slots, logits)
            return results.end()

    def _predict_all(
        self, cutters: list[Cutter], batch: int
    ) -> Iterator[tuple[list[tuple[int, Tile]], Tensor]]:
        """Batches of tiles that hold data, in order, and their logits (N, K, h, w)."""
        side, planes = cutters[0].grid.tile, len(self.bundle.bands) + 1
        pixels = torch.zeros(
            batch, planes, side, side, dtype=torch.uint8, device=self._device
        )
        band, at = pixels[0], (-1, -1)
        tiles = ((index, tile) for index, one in enumerate(cutters) for tile in one.tiles())
        while slots := list(itertools.islice(tiles, batch)):
            for slot, (index, tile) in enumerate(slots):
                if at != (index, tile.row):
                    band, at = self._bring(cutters[index], tile.row), (index, tile.row)
                left = cutters[index].left(tile)
                pixels[slot] = band[:, :, left : left + side]
            # The last batch has empty slots, which give results for no tile.
            pixels[len(slots) :, -1] = 0
            yield slots, self._predict(pixels[:, :-1], pixels[:, -1] > 0)

    def _bring(self, cutter: Cutter, row: int) -> Tensor:
        """A row of tiles on the device: a tile's columns are shared, so sent once."""
        planes = len(self.bundle.bands) + 1
        host = empty_on_host((planes, cutter.grid.tile, cutter.width), self._device)
        cutter.fill(row, host.numpy())
        return to_device(host, self._device)

    def _predict(self, pixels: Tensor, valid: Tensor) -> Tensor:
        """Map uint8 (N, bands, H, W) and bool (N, H, W) to logits float32 (N, K, h, w)."""
        x = pixels.to(torch.float32, memory_format=torch.channels_last)
        x = x.sub_(self._mean).div_(self._std)
        x.masked_fill_(~valid[:, None], 0)  # normalised, the mean is 0
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
