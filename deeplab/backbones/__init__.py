"""Encoders: image to a low-level map at stride 4 and a map at output stride.

Their strides beyond the output stride become atrous rates, which changes no
parameter. No weights are downloaded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """An encoder's maps, each (N, C, H, W)."""

    low: Tensor
    """At stride 4, for the decoder."""

    middle: Tensor
    """Further up, for an auxiliary head."""

    high: Tensor
    """At output stride, for the context module."""


class Backbone(nn.Module, ABC):
    """What the rest of DeepLab needs to know of an encoder."""

    low_channels: int
    """C of the low-level map."""

    middle_channels: int
    """C of the middle map."""

    channels: int
    """C of the last map."""

    @abstractmethod
    def set_output_stride(self, output_stride: int) -> None:
        """Set strides and rates anew; no parameter changes."""

    @abstractmethod
    def forward(self, x: Tensor) -> Features:
        """Map images (N, bands, H, W) to the three maps."""
