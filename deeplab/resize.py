"""Bilinear resizing of maps, and the class of each pixel without its logits.

Shape letters: N batch, K classes, h and w the logits, H and W the image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor


def resize(x: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Interpolate (N, C, h, w) bilinearly to ``size`` rows and columns.

    Args:
        x: Maps.
        size: Rows and columns wanted.
        align_corners: Map the centres of the corner cells on one another, as
            TensorFlow's DeepLab does, instead of the corners of the maps.
    """
    if tuple(x.shape[2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def enlarged_argmax(
    logits: Tensor, size: tuple[int, int], *, align_corners: bool = False
) -> tuple[Tensor, Tensor]:
    """Class of each pixel of enlarged logits, which are never held as a whole.

    Each class is enlarged alone and compared with the best so far, so the memory
    is that of a few classes, not of K. The ids are those of ``resize`` and
    ``argmax``, bit for bit; the lowest id wins a tie.

    Args:
        logits: float (N, K, h, w), K at most 256.
        size: H and W.
        align_corners: As in ``resize``.

    Returns:
        Ids uint8 (N, H, W) and the winner's probability float32 (N, H, W), the
        softmax over classes, summed as the classes come.
    """
    ids, _, probability = enlarged_winner(logits, size, align_corners=align_corners)
    return ids, probability


def enlarged_winner(
    logits: Tensor, size: tuple[int, int], *, align_corners: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """As ``enlarged_argmax``, and between both the winner's logit, float32 (N, H, W)."""
    logits = logits.float()
    best = enlarge(logits, 0, size, align_corners=align_corners)
    ids = torch.zeros_like(best, dtype=torch.uint8)
    total = torch.ones_like(best)
    for index in range(1, logits.shape[1]):
        value = enlarge(logits, index, size, align_corners=align_corners)
        ids.masked_fill_(value > best, index)
        highest = torch.maximum(best, value)
        total.mul_((best - highest).exp_()).add_((value - highest).exp_())
        best = highest
    return ids, best, total.reciprocal_()


def enlarged_probability(
    logits: Tensor, index: int, best: Tensor, probability: Tensor, *, align_corners: bool
) -> Tensor:
    """Probability of one class of enlarged logits, float32 (N, H, W).

    Where the class is the winner it has the winner's bits.

    Args:
        logits: float (N, K, h, w).
        index: The class.
        best: float32 (N, H, W), the logit of each pixel's winner, and
        probability: the same of its probability, both of ``enlarged_winner``.
        align_corners: As in ``resize``.
    """
    size = (best.shape[1], best.shape[2])
    value = enlarge(logits.float(), index, size, align_corners=align_corners)
    return (value - best).exp_().mul_(probability)


def enlarge(
    logits: Tensor, index: int, size: tuple[int, int], *, align_corners: bool
) -> Tensor:
    """One class of logits (N, K, h, w), enlarged: (N, H, W)."""
    plane = logits[:, index : index + 1].contiguous()
    return resize(plane, size, align_corners=align_corners)[:, 0]
