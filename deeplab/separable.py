"""Depthwise separable convolution: one kernel per channel, then a 1x1 across them.

Chen et al. 2018, arXiv:1802.02611, section 3.1 and figure 3; the depthwise part
may have holes (c). It costs about an eighth of a dense 3x3 convolution.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from deeplab.atrous import AtrousConv, batch_norm, conv

if TYPE_CHECKING:
    from deeplab.variant import Norm


class SeparableAtrousConv(nn.Module):
    """Atrous 3x3 per channel, then 1x1 across channels."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        rate: int = 1,
        norm: Norm | None = None,
        norm_between: bool = True,
        active: bool = True,
    ) -> None:
        """Build the layer.

        Args:
            in_channels: Channels of the input.
            channels: Channels of the result.
            rate: Distance between neighbouring kernel taps, in cells.
            norm: Set-up of batch normalisation.
            norm_between: Normalise after the depthwise part too, as the authors do.
            active: ReLU after each normalisation.
        """
        super().__init__()
        self.active = active
        self.depthwise = conv(in_channels, in_channels, 3, rate=rate, groups=in_channels)
        if norm_between:
            self.depthwise_bn = batch_norm(in_channels, norm)
        self.norm_between = norm_between
        self.pointwise = conv(in_channels, channels, 1)
        self.bn = batch_norm(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        x = self.depthwise(x)
        if self.norm_between:
            x = self._activate(self.depthwise_bn(x))
        return self._activate(self.bn(self.pointwise(x)))

    def _activate(self, x: Tensor) -> Tensor:
        return torch.relu_(x) if self.active else x


def atrous_conv(
    in_channels: int,
    channels: int,
    *,
    rate: int = 1,
    norm: Norm | None = None,
    separable: bool = False,
    norm_between: bool = True,
) -> AtrousConv | SeparableAtrousConv:
    """Build a 3x3 layer: dense, or depthwise separable."""
    if not separable:
        return AtrousConv(in_channels, channels, rate=rate, norm=norm)
    return SeparableAtrousConv(
        in_channels, channels, rate=rate, norm=norm, norm_between=norm_between
    )
