"""Train a segmentation network: one loop, fed with arrays.

The recipe is that of the papers (arXiv:1706.05587, section 4.1): random crops,
flips, one batch a step, and a learning rate that falls by ``(1 - progress)^0.9``
at every step. It reads no file: samples come from any iterator, and the caller
watches, saves and stops as it consumes the progress.

    for progress in train(model, crops(samples, 513, seed=0), recipe):
        print(progress.step, progress.loss)

Shape letters: N batch, H and W a crop, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress, islice
from operator import not_
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from deeplab.auxiliary import AUXILIARY_WEIGHT
from deeplab.losses import cross_entropy
from deeplab.model import DeepLab, freeze_bn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.random import Generator
    from numpy.typing import NDArray
    from torch import Tensor

    Sample = tuple[NDArray[np.uint8], NDArray[np.uint8]]

_NODATA = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; the defaults are the papers'."""

    steps: int
    """Batches in all."""

    mean: tuple[float, ...]
    """Per band, in units of pixel / 255, as the bundle will say."""

    std: tuple[float, ...]
    """Per band, in units of pixel / 255."""

    batch: int = 16
    """Crops a step; below 12, batch statistics are poor."""

    optimizer: Literal["sgd", "adamw"] = "sgd"
    """``sgd`` to refine a pretrained network, ``adamw`` to start from nothing."""

    learning_rate: float = 0.007
    """At its highest, after the warm-up."""

    weight_decay: float = 4e-5
    """On kernels alone."""

    power: float = 0.9
    """Exponent of the schedule."""

    warmup: int = 0
    """First steps, over which the learning rate rises from zero."""

    freeze_norm: bool = False
    """Keep the statistics of batch normalisation as they are."""

    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16`` computes under autocast; weights stay float32."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.steps < 1 or self.batch < 1:
            raise ValueError(
                f"steps and batch must be at least 1, got {self.steps} and {self.batch}"
            )
        if not 0 <= self.warmup < self.steps:
            raise ValueError(f"warmup must be 0 to {self.steps - 1}, got {self.warmup}")
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"mean and std must have one number per band, std above 0, "
                f"got {self.mean} and {self.std}"
            )

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / (self.warmup + 1)
        progress = (step - self.warmup) / (self.steps - self.warmup)
        return float(self.learning_rate * (1.0 - progress) ** self.power)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one step did."""

    step: int
    """Steps done, from 1."""

    loss: float
    """Of this step's batch."""

    learning_rate: float
    """Of this step."""


def set_seed(seed: int) -> None:
    """Make the weights of the next ``deeplab.build`` and all dropout repeatable."""
    torch.manual_seed(seed)


def set_threads(threads: int) -> None:
    """Compute on this many processor threads."""
    torch.set_num_threads(threads)


def train(
    model: nn.Module, samples: Iterable[Sample], recipe: Recipe
) -> Iterator[Progress]:
    """Train a network in place, on the device that it is on.

    Args:
        model: From images (N, bands, H, W) to logits (N, K, H, W).
        samples: Pixels uint8 (bands, H, W) and truth uint8 (H, W), all of one
            size; 254 and 255 in the truth teach nothing. An iterator that ends
            early ends the training with its last full batch.
        recipe: How to train.

    Yields:
        Progress after every step. The network is in training mode meanwhile and
        in evaluation mode after the last one; whoever switches it in between
        may leave it switched.
    """
    device = next(model.parameters()).device
    model.to(memory_format=torch.channels_last)
    optimizer = _optimizer(model, recipe)
    source = iter(samples)
    for step in range(recipe.steps):
        batch = list(islice(source, recipe.batch))
        if len(batch) < recipe.batch:
            break
        model.train()
        if recipe.freeze_norm:
            freeze_bn(model)
        images = _normalised(np.stack([pixels for pixels, _ in batch]), recipe).to(device)
        truth = torch.from_numpy(np.stack([truth for _, truth in batch])).to(device)
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        loss = _step(model, optimizer, (images, truth), recipe)
        yield Progress(step=step + 1, loss=loss, learning_rate=recipe.rate(step))
    model.eval()


def crops(samples: Sequence[Sample], size: int, *, seed: int) -> Iterator[Sample]:
    """Random crops without end, each turned, mirrored and tinted at random.

    Args:
        samples: Pixels uint8 (bands, H, W) and truth uint8 (H, W), of any size.
        size: Rows and columns of a crop. What an image lacks is black, and its
            truth 255.
        seed: Decides all of them.

    Yields:
        Pixels (bands, size, size) and truth (size, size), uint8.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    while True:
        yield augment(rng, crop(rng, samples[int(rng.integers(len(samples)))], size))


def crop(rng: Generator, sample: Sample, size: int) -> Sample:
    """Cut a random square; what the image lacks is black, and its truth 255."""
    pixels, truth = sample
    height, width = truth.shape
    top = int(rng.integers(max(0, height - size) + 1))
    left = int(rng.integers(max(0, width - size) + 1))
    window = slice(top, top + size), slice(left, left + size)
    pixels, truth = pixels[:, *window], truth[window]
    if truth.shape != (size, size):
        missing = ((0, size - truth.shape[0]), (0, size - truth.shape[1]))
        pixels = np.pad(pixels, ((0, 0), *missing))
        truth = np.pad(truth, missing, constant_values=_NODATA)
    return pixels, truth


def augment(rng: Generator, sample: Sample) -> Sample:
    """Turn by quarters, mirror, and change brightness, contrast and tint a little."""
    pixels, truth = sample
    quarters = int(rng.integers(4))
    pixels, truth = np.rot90(pixels, quarters, axes=(1, 2)), np.rot90(truth, quarters)
    if rng.integers(2):
        pixels, truth = pixels[:, :, ::-1], truth[:, ::-1]
    return _tint(rng, pixels), np.ascontiguousarray(truth)


def _tint(rng: Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Map each band's values by a line close to the identity."""
    bands = pixels.shape[0]
    gain = rng.uniform(0.88, 1.12) * rng.uniform(0.95, 1.05, size=(bands, 1))
    shift = rng.uniform(-12.0, 12.0) + rng.uniform(-5.0, 5.0, size=(bands, 1))
    values = np.arange(256.0) * gain + shift
    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return np.stack([table[band][pixels[band]] for band in range(bands)])


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Split what is trained into kernels with weight decay and all else without.

    Biases, batch normalisation and depthwise kernels have none, as in the code of
    DeepLab's authors: a depthwise kernel has nine weights a channel, too few to decay.
    """
    spared = {
        module.weight
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
    }
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p.ndim > 1 and p not in spared for p in trained]
    return [
        {"params": list(compress(trained, decays)), "weight_decay": weight_decay},
        {"params": list(compress(trained, map(not_, decays))), "weight_decay": 0.0},
    ]


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = parameter_groups(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=0.9)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def _normalised(pixels: NDArray[np.uint8], recipe: Recipe) -> Tensor:
    """Images (N, bands, H, W) as the network wants them."""
    images = torch.from_numpy(pixels).to(torch.float32, memory_format=torch.channels_last)
    mean = torch.tensor(recipe.mean).view(-1, 1, 1)
    std = torch.tensor(recipe.std).view(-1, 1, 1)
    return images.div_(255.0).sub_(mean).div_(std)


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    recipe: Recipe,
) -> float:
    """One batch: forward, backward, update; the loss."""
    images, truth = batch
    reduced = recipe.precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=reduced):
        if isinstance(model, DeepLab) and model.aux is not None:
            logits, second = model.forward_with_aux(images)
        else:
            logits, second = model(images), None
    loss = cross_entropy(logits, truth)
    if second is not None:
        loss = loss + AUXILIARY_WEIGHT * cross_entropy(second, truth)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(loss.detach())
