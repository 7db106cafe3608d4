"""Atrous convolutions, and strides turned into atrous rates.

Chen et al. 2017, arXiv:1706.05587, section 3.1: from the layer whose stride is
removed on, convolutions see the same pixels as before when their kernels get
holes. As in the authors' code, the unit whose stride is removed keeps the old
rate; the units after it get the new one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable

EPSILON = 1e-5
"""Batch normalisation's epsilon in ASPP and decoder, as in the authors' code."""


class AtrousConv(nn.Module):
    """Convolution with holes, batch normalisation, ReLU; keeps H and W."""

    def __init__(
        self, in_channels: int, channels: int, *, kernel: int = 3, rate: int = 1
    ) -> None:
        """Build the layer.

        Args:
            in_channels: Channels of the input.
            channels: Channels of the result.
            kernel: Rows and columns of the kernel, odd.
            rate: Distance between neighbouring kernel taps, in cells.
        """
        super().__init__()
        self.conv = _conv(in_channels, channels, kernel=kernel, rate=rate)
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        return torch.relu_(self.bn(self.conv(x)))


class SeparableAtrousConv(nn.Module):
    """Atrous 3x3 per channel, then 1x1 across channels; keeps H and W.

    Each is followed by batch normalisation and ReLU (arXiv:1802.02611,
    section 3.1, and the authors' code).
    """

    def __init__(self, in_channels: int, channels: int, *, rate: int = 1) -> None:
        """Build the layer.

        Args:
            in_channels: Channels of the input.
            channels: Channels of the result.
            rate: Distance between neighbouring kernel taps, in cells.
        """
        super().__init__()
        self.depthwise = _conv(
            in_channels, in_channels, kernel=3, rate=rate, groups=in_channels
        )
        self.depthwise_bn = nn.BatchNorm2d(in_channels, eps=EPSILON)
        self.pointwise = _conv(in_channels, channels, kernel=1)
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        x = torch.relu_(self.depthwise_bn(self.depthwise(x)))
        return torch.relu_(self.bn(self.pointwise(x)))


def atrous_conv(
    in_channels: int, channels: int, *, rate: int = 1, separable: bool = False
) -> AtrousConv | SeparableAtrousConv:
    """Build a 3x3 layer: dense, or depthwise separable."""
    kind = SeparableAtrousConv if separable else AtrousConv
    return kind(in_channels, channels, rate=rate)


def limit_stride(units: Iterable[nn.Module], *, stride: int, output_stride: int) -> None:
    """Turn the strides beyond ``output_stride`` into atrous rates, in place.

    No parameter changes, so weights fit every output stride. Works on any unit
    whose convolutions share one stride: residual blocks of either kind,
    inverted residuals, plain layers.

    Args:
        units: The network's units in order; a unit's stride is its
            convolutions' largest.
        stride: Image pixels per cell at the first unit's input.
        output_stride: Image pixels per cell wanted at the last unit's output.
    """
    rate = 1
    for unit in units:
        step = _stride(unit)
        if stride < output_stride:
            stride *= step
        else:
            _dilate(unit, rate)
            rate *= step


def _stride(unit: nn.Module) -> int:
    convs = [module for module in unit.modules() if isinstance(module, nn.Conv2d)]
    return max(conv.stride[0] for conv in convs)


def _dilate(unit: nn.Module, rate: int) -> None:
    """Remove the unit's stride and spread its 3x3 kernels."""
    for conv in unit.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)


def _conv(
    in_channels: int, channels: int, *, kernel: int, rate: int = 1, groups: int = 1
) -> nn.Conv2d:
    conv = nn.Conv2d(
        in_channels,
        channels,
        kernel,
        padding=rate * (kernel // 2),
        dilation=rate,
        groups=groups,
        bias=False,
    )
    nn.init.kaiming_normal_(conv.weight)
    return conv
