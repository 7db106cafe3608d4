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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
import torch

from deeplab.blend import Blend, to_bytes, to_confidence
from deeplab.cut import Cutter
from deeplab.fold import fold
from deeplab.memory import with_less_memory
from deeplab.resize import enlarged_probability, enlarged_winner, resize
from deeplab.tiles import Region, TileGrid, Window
from deeplab.weights import load_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deeplab.bundle import Bundle
    from deeplab.cut import Tile
    from deeplab.tiles import Tiling

    _Found = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
    """Class ids and confidence (H, W), and probabilities (chosen, H, W)."""

NODATA = 255
"""Mask value where there is no data."""

STRIP = 4096
"""Most columns that are blended at once: sums are held for K classes, a tile's rows
and so many columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """Classes of a window of pixels."""

    mask: NDArray[np.uint8]
    """uint8 (H, W): class ids, 255 where not valid."""

    confidence: NDArray[np.uint8]
    """uint8 (H, W): 255 times the winner's probability, 0 where not valid."""

    probabilities: NDArray[np.uint8] | None = None
    """uint8 (chosen, H, W): the same of each class that was asked for, which for the
    winner is the confidence; None where none was."""


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
        self._check_pixels(pixels, valid)
        self._check_chosen(probabilities)
        region = region or _whole(*valid.shape)
        grid = TileGrid(
            height=region.height,
            width=region.width,
            tiling=tiling or self.bundle.tiling,
        )
        _check_region(region, grid, valid.shape)
        cutters = [
            Cutter(grid=grid, region=strip, pixels=pixels, valid=valid)
            for strip in _strips(region)
        ]
        segment = functools.partial(self._segment_all, cutters, tuple(probabilities))
        return with_less_memory(segment, batch or self.batch)

    def close(self) -> None:
        """Wait for running calls, then end the thread; a second call is free."""
        self._thread.shutdown()

    def __enter__(self) -> Self:
        """Return the segmenter itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _segment_all(
        self, cutters: list[Cutter], chosen: tuple[int, ...], batch: int
    ) -> Segmentation:
        try:
            results = [
                self._thread.submit(self._segment, cutter, chosen, batch)
                for cutter in cutters
            ]
        except RuntimeError as error:
            raise ValueError("segmenter is closed; make a new one") from error
        return _beside([result.result() for result in results])

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

    def _segment(self, cutter: Cutter, chosen: tuple[int, ...], batch: int) -> Segmentation:
        core, read = cutter.region.core, cutter.region.read
        with torch.inference_mode(), _exact(self._device):
            find = self._find_alone if cutter.grid.count == 1 else self._find_blended
            mask, confidence, probabilities = find(cutter, chosen, batch)
        top, left = core.row - read.row, core.col - read.col
        invalid = ~cutter.valid[top : top + core.height, left : left + core.width]
        mask[invalid], confidence[invalid] = NODATA, 0
        for plane in probabilities:
            plane[invalid] = 0
        return Segmentation(
            mask=mask,
            confidence=confidence,
            probabilities=probabilities if chosen else None,
        )

    def _find_alone(self, cutter: Cutter, chosen: tuple[int, ...], batch: int) -> _Found:
        """What is under the raster's only tile: K planes never exist."""
        core, align_corners = cutter.region.core, self._align_corners
        shape = (core.height, core.width)
        planes = np.zeros((len(chosen), *shape), np.uint8)
        for _, logits in self._predict_all(cutter, batch):
            ids, best, sure = enlarged_winner(
                logits, (cutter.grid.tile,) * 2, align_corners=align_corners
            )
            inside = np.s_[0, core.row : core.stop_row, core.col : core.stop_col]
            confidence = to_confidence(sure[inside]).cpu().numpy()
            for plane, index in zip(planes, chosen, strict=True):
                one = enlarged_probability(
                    logits, index, best, sure, align_corners=align_corners
                )
                plane[:] = to_bytes(one[inside]).cpu().numpy()
            return ids[inside].cpu().numpy(), confidence, planes
        return np.zeros(shape, np.uint8), np.zeros(shape, np.uint8), planes

    def _find_blended(self, cutter: Cutter, chosen: tuple[int, ...], batch: int) -> _Found:
        """The same where tiles overlap: one tile's K planes at once."""
        blend = Blend(
            cutter.grid,
            cutter.region.core,
            classes=len(self.bundle.classes),
            device=self._device,
            chosen=chosen,
        )
        for tile, logits in self._predict_all(cutter, batch):
            # Contiguous: softmax over strided classes takes twice as long on a CPU.
            enlarged = resize(
                logits.contiguous(),
                (cutter.grid.tile,) * 2,
                align_corners=self._align_corners,
            )
            blend.add(tile, torch.softmax(enlarged, dim=1)[0])
        return blend.finish()

    def _predict_all(self, cutter: Cutter, batch: int) -> Iterator[tuple[Tile, Tensor]]:
        """Logits (1, K, h, w) of each tile that holds data, in order."""
        side, bands = cutter.grid.tile, len(self.bundle.bands)
        pixels = np.zeros((batch, bands, side, side), dtype=np.uint8)
        valid = np.zeros((batch, side, side), dtype=np.bool_)
        tiles = cutter.tiles()
        while group := list(itertools.islice(tiles, batch)):
            for slot, tile in enumerate(group):
                cutter.copy(tile, pixels[slot], valid[slot])
            valid[len(group) :] = False
            # The last batch has empty slots, which give results for no tile.
            yield from zip(group, self._predict(pixels, valid)[:, None], strict=False)

    def _predict(self, pixels: NDArray[np.uint8], valid: NDArray[np.bool_]) -> Tensor:
        """Map uint8 (N, bands, H, W) to logits float32 (N, K, h, w)."""
        x = torch.from_numpy(pixels).to(self._device)
        x = x.to(torch.float32, memory_format=torch.channels_last)
        x = x.sub_(self._mean).div_(self._std)
        is_empty = torch.from_numpy(~valid).to(self._device)
        x.masked_fill_(is_empty[:, None], 0)  # normalised, the mean is 0
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


def _whole(height: int, width: int) -> Region:
    window = Window(row=0, col=0, height=height, width=width)
    return Region(height=height, width=width, core=window, read=window)


def _strips(region: Region) -> Iterator[Region]:
    """Cut a wide core into strips: the result is the same, the memory bounded."""
    core = region.core
    for col in range(core.col, core.stop_col, STRIP):
        width = min(STRIP, core.stop_col - col)
        yield replace(region, core=replace(core, col=col, width=width))


def _beside(parts: list[Segmentation]) -> Segmentation:
    if len(parts) == 1:
        return parts[0]
    planes = [part.probabilities for part in parts if part.probabilities is not None]
    return Segmentation(
        mask=np.hstack([part.mask for part in parts]),
        confidence=np.hstack([part.confidence for part in parts]),
        probabilities=np.concatenate(planes, axis=2) if planes else None,
    )


def _check_region(region: Region, grid: TileGrid, shape: tuple[int, ...]) -> None:
    core, read = region.core, region.read
    raster = Window(row=0, col=0, height=region.height, width=region.width)
    if core.height < 1 or core.width < 1 or not _holds(raster, core):
        raise ValueError(f"core must lie in the raster, got {core} in {raster}")
    if not _holds(read, grid.reach(core)) or not _holds(raster, read):
        raise ValueError(
            f"read must hold the core's tiles, {grid.reach(core)}, and lie in the raster, "
            f"got {read}; use TileGrid.reach"
        )
    if shape != (read.height, read.width):
        raise ValueError(
            f"pixels must cover region.read, {(read.height, read.width)}, got {shape}"
        )


def _holds(outer: Window, inner: Window) -> bool:
    return (
        outer.row <= inner.row
        and outer.col <= inner.col
        and inner.stop_row <= outer.stop_row
        and inner.stop_col <= outer.stop_col
    )
