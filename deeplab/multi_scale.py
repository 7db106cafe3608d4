"""Several scales and mirror images of one image, their probabilities averaged.

Chen et al. 2018, arXiv:1802.02611, table 3 ("MS", "Flip"): two points of mIoU on
Pascal VOC for about ten times the work. As in the authors' code, the mean is taken
of probabilities, after softmax and only once.

Shape letters: N batch, K classes, H and W the image.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import torch

from deeplab.resize import resize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from deeplab.model import DeepLab

SCALES: Final = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""For Pascal VOC; 0.75, 1 and 1.25 for Cityscapes."""

_DECODED_STRIDE: Final = 4


def multi_scale(
    model: DeepLab, x: Tensor, *, scales: Sequence[float] = SCALES, flip: bool = True
) -> Tensor:
    """Average the probabilities of an image's scales, and of their mirror images.

    Args:
        model: In evaluation mode, folded or not.
        x: Normalised images (N, bands, H, W).
        scales: Factors of H and W.
        flip: Mirror each scale left to right as well.

    Returns:
        Probabilities float32 (N, K, H, W), which sum to one over classes.

    Raises:
        ValueError: There is no scale, or one is not above 0.
    """
    if not scales or min(scales) <= 0:
        raise ValueError(f"scales must be one number above 0 or more, got {scales}")
    views = (_view(model, x, scale, flip=flip) for scale in scales)
    return functools.reduce(torch.add, views) / len(scales)


def _view(model: DeepLab, x: Tensor, scale: float, *, flip: bool) -> Tensor:
    """Probabilities (N, K, H, W) of one scale."""
    height, width = x.shape[2], x.shape[3]
    align_corners = model.align_corners
    size = (_scaled(height, scale), _scaled(width, scale))
    image = resize(x, size, align_corners=align_corners)
    if flip:  # as one batch: the same result, in one go
        image = torch.cat([image, image.flip(3)])
    logits = model.classify(image)
    # The authors enlarge small scales twice, first to the cells of the image itself.
    stride = _DECODED_STRIDE if model.decoder else model.network.output_stride
    cells = max(1.0, scale) / stride
    logits = resize(
        logits, (_scaled(height, cells), _scaled(width, cells)), align_corners=align_corners
    )
    logits = resize(logits, (height, width), align_corners=align_corners)
    probabilities = logits.float().softmax(1)
    if flip:
        straight, mirrored = probabilities.chunk(2)
        probabilities = (straight + mirrored.flip(3)) / 2
    return probabilities


def _scaled(size: int, scale: float) -> int:
    """Rows or columns after scaling, as the authors round them: corners stay."""
    return max(1, int((size - 1) * scale + 1))
