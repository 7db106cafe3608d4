"""What a network costs: its parameters, and multiply-adds on one image.

Counted on tensors without memory, so the largest network takes no longer than the
smallest. The papers give multiply-adds at 513 x 513 pixels; theirs also count the
zeros that TensorFlow pads an atrous convolution with, and are up to 10 % higher.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from deeplab.model import build_network

if TYPE_CHECKING:
    from deeplab.model import DeepLab, Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one network on one image."""

    parameters: int
    """Numbers to be learnt."""

    multiply_adds: int
    """Of all convolutions; an enlargement of logits is none."""


def profile(model: DeepLab | Linear, *, height: int = 513, width: int = 513) -> Cost:
    """Count a network's parameters and its multiply-adds on one image.

    Args:
        model: What ``deeplab.build`` or ``deeplab.load`` gave, not folded.
        height: Rows of the image.
        width: Columns of the image.
    """
    with torch.device("meta"), torch.no_grad():
        twin = build_network(model.network).eval()
        image = torch.empty(1, model.network.bands, height, width)
        with FlopCounterMode(display=False) as counter:
            twin(image)
    parameters = sum(tensor.numel() for tensor in twin.parameters())
    # The counter counts a multiplication and an addition as two.
    flops = cast("int", counter.get_total_flops())
    return Cost(parameters=parameters, multiply_adds=flops // 2)
