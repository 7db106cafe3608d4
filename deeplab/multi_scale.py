"""Several scales and mirror images of one image, their probabilities averaged.

Chen et al. 2018, arXiv:1802.02611, table 3 ("MS", "Flip"): two points of mIoU on
Pascal VOC for about ten times the work. As in the authors' code, the mean is taken
of probabilities, after softmax and only once.

Shape letters: N batch, K classes, h and w a map of logits, H and W the image.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

import torch

from deeplab.resize import resize
from deeplab.variant import LINEAR
from deeplab.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from deeplab.model import DeepLab
    from deeplab.variant import Network

    Classify = Callable[[Tensor], Tensor]

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
        ValueError: There is no scale, or one is out of range.
    """
    logits = view_logits(
        model.classify, x, Views(scales=tuple(scales), flip=flip), model.network
    )
    size = (x.shape[2], x.shape[3])
    return mean_probability(logits, size, align_corners=model.align_corners)


def view_logits(
    classify: Classify, x: Tensor, views: Views, network: Network
) -> list[Tensor]:
    """Logits of each view of an image, all upright and of the image's own cells.

    Args:
        classify: Maps images to logits (N, K, h, w).
        x: Normalised images (N, bands, H, W).
        views: Which; mirror images are seen in one batch with what they mirror.
        network: What ``classify`` belongs to.

    Returns:
        float32 (N, K, h, w) for each scale, and after it for its mirror image.
    """
    height, width = x.shape[2], x.shape[3]
    align_corners, cell = network.choices.align_corners, _cell(network)
    found: list[Tensor] = []
    for scale in views.scales:
        size = (_scaled(height, scale), _scaled(width, scale))
        image = resize(x, size, align_corners=align_corners)
        if views.flip:
            image = torch.cat([image, image.flip(3)])
        logits = classify(image).float()
        # The authors enlarge small scales twice, first to the cells of the image itself.
        cells = max(1.0, scale) / cell
        size = (_scaled(height, cells), _scaled(width, cells))
        logits = resize(logits.contiguous(), size, align_corners=align_corners)
        parts = logits.chunk(2) if views.flip else (logits,)
        found += [part.flip(3) if n else part for n, part in enumerate(parts)]
    return found


def mean_probability(
    logits: Sequence[Tensor], size: tuple[int, int], *, align_corners: bool
) -> Tensor:
    """Mean over views of the softmax of enlarged logits.

    Args:
        logits: float32 (N, K, h, w) for each view.
        size: H and W.
        align_corners: As in ``resize``.

    Returns:
        float32 (N, K, H, W).
    """
    # Contiguous: softmax over strided classes takes twice as long on a CPU.
    parts = (
        torch.softmax(resize(one.contiguous(), size, align_corners=align_corners), dim=1)
        for one in logits
    )
    if len(logits) == 1:
        return next(parts)
    return functools.reduce(torch.Tensor.add_, parts) / len(logits)


def _cell(network: Network) -> int:
    """Px of a cell of the logits."""
    if network.architecture == LINEAR:
        return 1
    return _DECODED_STRIDE if network.head == "deeplabv3plus" else network.output_stride


def _scaled(size: int, scale: float) -> int:
    """Rows or columns after scaling, as the authors round them: corners stay."""
    return max(1, int((size - 1) * scale + 1))
