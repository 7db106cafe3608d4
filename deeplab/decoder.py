"""The decoder of DeepLabV3+: sharp edges from an early feature map.

Chen et al. 2018, arXiv:1802.02611, sections 3.1 and 4.1: 48 channels of the
map at stride 4 beside the context, then two 3x3 convolutions of 256 channels.

Shape letters: N batch, C channels, H and W the low-level map (image / 4).
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.atrous import AtrousConv, atrous_conv

LOW_CHANNELS: Final = 48
"""Channels kept of the low-level map (table 1)."""

CHANNELS: Final = 256
"""Channels of the two 3x3 convolutions (table 2)."""


class Decoder(nn.Module):
    """Context enlarged to the low-level map, concatenated with it, refined."""

    def __init__(
        self,
        context_channels: int,
        low_channels: int,
        *,
        separable: bool = False,
        channels: int = CHANNELS,
    ) -> None:
        """Build the module.

        Args:
            context_channels: C of the ASPP's result.
            low_channels: C of the backbone's map at stride 4.
            separable: Depthwise separable 3x3 convolutions instead of dense.
            channels: C of the result.
        """
        super().__init__()
        self.low_level = AtrousConv(low_channels, LOW_CHANNELS, kernel=1)
        self.fuse = nn.Sequential(
            atrous_conv(context_channels + LOW_CHANNELS, channels, separable=separable),
            atrous_conv(channels, channels, separable=separable),
        )

    def forward(self, context: Tensor, low: Tensor) -> Tensor:
        """Map context (N, C, h, w) and low-level (N, C, H, W) to (N, C, H, W)."""
        context = resize(context, low.shape[2:])
        fused: Tensor = self.fuse(torch.cat([context, self.low_level(low)], dim=1))
        return fused


def resize(x: Tensor, size: torch.Size) -> Tensor:
    """Interpolate (N, C, h, w) bilinearly to ``size`` rows and columns."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
