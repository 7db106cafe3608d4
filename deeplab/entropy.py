"""How undecided a network is: the entropy of each pixel's probabilities.

Shannon's, over its greatest value log K, so 0 where one class is certain and 1 where
all are alike. It is taken of float32 probabilities and rounded once, to parts of
``ENTROPY_SCALE``, so that sums over pixels are whole numbers and exact in any order.

Shape letters: N batch, K classes, h and w the logits, H and W the image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from deeplab.pictures import ENTROPY_SCALE
from deeplab.resize import enlarge

if TYPE_CHECKING:
    from torch import Tensor

    from deeplab.stretch import Stretched

_LEAST: Final = 1e-30
"""A probability whose part of the entropy is nothing, and whose logarithm is a number."""


def enlarged_entropy(
    logits: Tensor, best: Tensor, probability: Tensor, *, align_corners: bool
) -> Tensor:
    """Entropy of enlarged logits, which are never held as a whole.

    Args:
        logits: float (N, K, h, w).
        best: float32 (N, H, W), the logit of each pixel's winner, and
        probability: the same of its probability, both of ``enlarged_winner``.
        align_corners: As in ``resize``.

    Returns:
        int16 (N, H, W), 0 to ``ENTROPY_SCALE``.
    """
    logits, size = logits.float(), (best.shape[1], best.shape[2])
    weighted = torch.zeros_like(best)
    for index in range(logits.shape[1]):
        below = enlarge(logits, index, size, align_corners=align_corners).sub_(best)
        weighted += below.exp().mul_(below)
    # Of classes whose logits are d below the winner's, the winner's probability is p:
    # each has p exp(d), and so -sum(p exp(d) (d + log p)) is -log p - p sum(d exp(d)).
    found = weighted.mul_(probability).add_(probability.log()).neg_()
    return _round(found, logits.shape[1])


def entropy_of(probabilities: Tensor | Stretched) -> Tensor:
    """As ``enlarged_entropy``, of probabilities, float32 (K, H, W): int16 (H, W)."""
    total = torch.zeros_like(probabilities[0])
    for index in range(len(probabilities)):
        bounded = probabilities[index].clamp_min(_LEAST)
        total -= bounded.log().mul_(bounded)
    return _round(total, len(probabilities))


def _round(entropy: Tensor, classes: int) -> Tensor:
    greatest = math.log(classes) or 1.0  # of one class it is 0
    # A value that is no number is told by the confidence, which then is none either.
    share = (entropy / greatest).nan_to_num_(0).clamp_(0, 1)
    return share.mul_(ENTROPY_SCALE).round_().to(torch.int16)
