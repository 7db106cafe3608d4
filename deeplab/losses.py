"""The loss that segmentation networks are trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor

FIRST_IGNORED: Final = 254
"""Truth from here on teaches nothing: 254 is "ignore", 255 is nodata."""


def cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels whose class is known.

    Args:
        logits: (N, K, H, W), float.
        truth: Class ids (N, H, W), uint8; 254 and 255 are left out.

    Returns:
        A scalar; 0 where no pixel's class is known.
    """
    known = truth < FIRST_IGNORED
    target = truth.long().masked_fill(~known, FIRST_IGNORED)
    total = F.cross_entropy(
        logits.float(), target, ignore_index=FIRST_IGNORED, reduction="sum"
    )
    return total / known.sum().clamp(min=1)
