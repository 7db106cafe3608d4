"""The decoder of DeepLabV3+: sharp edges from an early feature map.

Chen et al. 2018, arXiv:1802.02611, sections 3.1 and 4.1: 48 channels of the
map at stride 4 beside the context, then two 3x3 convolutions of 256 channels.

Shape letters: N batch, C channels, H and W the low-level map (image / 4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deeplab.atrous import AtrousConv
from deeplab.resize import resize
from deeplab.separable import atrous_conv

if TYPE_CHECKING:
    from deeplab.variant import Variant


class Decoder(nn.Module):
    """Context enlarged to the low-level map, concatenated with it, refined."""

    def __init__(self, low_channels: int, variant: Variant) -> None:
        """Build the module.

        Args:
            low_channels: C of the encoder's map at stride 4.
            variant: Channels, number and kind of convolutions, resizing.
        """
        super().__init__()
        self.align_corners = variant.align_corners
        channels, norm = variant.channels, variant.head_norm
        kept = variant.low_level_channels
        self.low_level = AtrousConv(low_channels, kept, kernel=1, norm=norm)
        self.fuse = nn.Sequential()
        for index in range(variant.decoder_convs):
            layer = atrous_conv(
                channels + kept if index == 0 else channels,
                channels,
                norm=norm,
                separable=variant.decoder_separable,
                norm_between=variant.separable_norm,
            )
            self.fuse.append(layer)

    def forward(self, context: Tensor, low: Tensor) -> Tensor:
        """Map context (N, C, h, w) and low-level (N, C, H, W) to (N, C, H, W)."""
        size = (low.shape[2], low.shape[3])
        context = resize(context, size, align_corners=self.align_corners)
        fused: Tensor = self.fuse(torch.cat([context, self.low_level(low)], dim=1))
        return fused
