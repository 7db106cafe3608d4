"""Backbones: image to a low-level map at stride 4 and a map at output stride.

They are torchvision's own networks without their classifiers, their strides
beyond the output stride turned into atrous rates. No weights are downloaded.
"""

from __future__ import annotations

from torch import Tensor, nn


class Backbone(nn.Module):
    """What the rest of DeepLabV3+ needs to know of a backbone."""

    low_channels: int
    """C of the low-level map."""

    channels: int
    """C of the last map."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, bands, H, W) to the maps at stride 4 and at output stride."""
        raise NotImplementedError


def first_conv(conv: nn.Conv2d, bands: int) -> nn.Conv2d:
    """Copy a network's first convolution for another number of bands."""
    if bands == conv.in_channels:
        return conv
    copy = nn.Conv2d(
        bands,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=(int(conv.padding[0]), int(conv.padding[1])),
        bias=False,
    )
    nn.init.kaiming_normal_(copy.weight, mode="fan_out", nonlinearity="relu")
    return copy
