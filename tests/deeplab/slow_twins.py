"""What several tests of the segmenter share: images, a network, and weights of tiles."""

import functools

import numpy as np
import torch

import deeplab

MOBILENET = "deeplabv3plus_mobilenet_v2"


def make_linear(bands=3):
    torch.manual_seed(1)
    model = deeplab.build("linear", classes=4, bands=bands).eval()
    torch.nn.init.normal_(model.classifier.weight, std=2)
    return model.to(memory_format=torch.channels_last)


def make_image(height, width, *, bands=3, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (bands, -(-height // 6), -(-width // 6)))
    smooth = np.kron(coarse, np.ones((1, 6, 6)))[:, :height, :width]
    noise = rng.normal(0, 20, smooth.shape)
    pixels = np.clip(smooth + noise, 0, 255).astype(np.uint8)
    return pixels, rng.random((height, width)) > 0.05


def twin_weights(tiling, starts, start):
    """What each of a tile's pixels counts, from all tiles along the axis at once."""
    tile, pixels = tiling.tile, np.arange(starts[-1] + tiling.tile) + 0.5
    count = np.zeros((len(starts), len(pixels)))
    for one, other in zip(count, starts, strict=True):
        inside = slice(other, other + tile)
        position = pixels[inside] - other
        one[inside] = np.sin(np.pi * position / tile) ** 2 if tiling.blend == "hann" else 1
    if tiling.blend == "crop":
        centres = np.array(starts) + tile / 2
        winner = np.abs(pixels - centres[:, None]).argmin(0)  # the first of two
        count = winner == np.arange(len(starts))[:, None]
    own = count[starts.index(start), start : start + tile]
    total = functools.reduce(np.add, count)
    return (own / total[start : start + tile]).astype(np.float32)
