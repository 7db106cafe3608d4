"""The auxiliary head: a second opinion from an earlier map, for training alone.

Zhao et al. 2017, arXiv:1612.01105, section 3.3: its loss, at a lower weight, helps
the encoder's lower part to learn. Inference leaves it out.

Shape letters: N batch, C channels, h and w the middle map, K classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from deeplab.atrous import batch_norm, conv

if TYPE_CHECKING:
    from deeplab.variant import Network

AUXILIARY_WEIGHT: Final = 0.4
"""Of its loss beside the network's own (arXiv:1612.01105, section 5.2)."""


class AuxiliaryHead(nn.Module):
    """3x3 convolution to a quarter of the channels, then a classifier."""

    def __init__(self, in_channels: int, network: Network) -> None:
        """Build the head.

        Args:
            in_channels: C of the encoder's middle map.
            network: Classes, normalisation and dropout.
        """
        super().__init__()
        channels = in_channels // 4
        self.conv = conv(in_channels, channels, 3)
        self.bn = batch_norm(channels, network.choices.head_norm)
        self.dropout = nn.Dropout(network.choices.dropout)
        self.classifier = nn.Conv2d(channels, network.classes, 1)

    def forward(self, middle: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) to logits (N, K, h, w)."""
        x = torch.relu_(self.bn(self.conv(middle)))
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
