"""Atrous convolution: a kernel with holes, which sees far at no cost.

Chen et al. 2017, arXiv:1706.05587, section 3.1: with rate r, neighbouring taps of
a kernel lie r cells apart.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.variant import Norm

if TYPE_CHECKING:
    from deeplab.rates import Unit


class AtrousConv(nn.Module):
    """Convolution with holes, batch normalisation, ReLU; keeps H and W."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        *,
        kernel: int = 3,
        rate: int = 1,
        norm: Norm | None = None,
    ) -> None:
        """Build the layer.

        Args:
            in_channels: Channels of the input.
            channels: Channels of the result.
            kernel: Rows and columns of the kernel, odd.
            rate: Distance between neighbouring kernel taps, in cells.
            norm: Set-up of batch normalisation.
        """
        super().__init__()
        self.conv = conv(in_channels, channels, kernel, rate=rate)
        self.bn = batch_norm(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        return torch.relu_(self.bn(self.conv(x)))


class SameConv(nn.Conv2d):
    """Convolution that pads as TensorFlow's SAME does.

    With stride 2 an even number of rows gets one row of zeros below and none
    above; an odd number gets one on either side, as everywhere else.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, ceil(H / stride), ...)."""
        reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1
        x = pad_same(x, reach=reach, stride=self.stride[0])
        return super().forward(x)


def pad_same(x: Tensor, *, reach: int, stride: int) -> Tensor:
    """Pad with zeros as TensorFlow's SAME does for a kernel that spans ``reach``."""
    pad: list[int] = []
    for size in (x.shape[3], x.shape[2]):
        missing = max((-(-size // stride) - 1) * stride + reach - size, 0)
        pad += [missing // 2, missing - missing // 2]
    return F.pad(x, pad)


def conv(
    in_channels: int,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    rate: int = 1,
    groups: int = 1,
) -> nn.Conv2d:
    """Build a convolution without bias, padded so that H and W change by stride alone."""
    return nn.Conv2d(
        in_channels,
        channels,
        kernel,
        stride=stride,
        padding=rate * (kernel // 2),
        dilation=rate,
        groups=groups,
        bias=False,
    )


def batch_norm(channels: int, norm: Norm | None = None) -> nn.BatchNorm2d:
    """Build a batch normalisation."""
    norm = norm or Norm()
    return nn.BatchNorm2d(channels, eps=norm.eps, momentum=norm.momentum)


def set_unit(layer: nn.Conv2d, unit: Unit) -> None:
    """Set a convolution's stride and rate; one that pads elsewhere still does."""
    layer.stride = (unit.stride, unit.stride)
    layer.dilation = (unit.rate, unit.rate)
    if layer.padding != (0, 0):
        reach = unit.rate * (layer.kernel_size[0] // 2)
        layer.padding = (reach, reach)
