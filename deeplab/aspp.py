"""Atrous spatial pyramid pooling, the context module of DeepLab.

Chen et al. 2017, arXiv:1706.05587, section 3.3; separable branches as in
Chen et al. 2018, arXiv:1802.02611, section 3.1.

Shape letters: N batch, C channels, H and W the feature map (image / stride).
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.atrous import AtrousConv, set_unit
from deeplab.image_pool import ImagePool
from deeplab.rates import Unit
from deeplab.separable import SeparableAtrousConv, atrous_conv
from deeplab.variant import RATES, Variant

if TYPE_CHECKING:
    from collections.abc import Sequence


class RateWarning(UserWarning):
    """An atrous rate is as large as the map: its kernels see their centre alone."""


class ASPP(nn.Module):
    """Parallel views of one feature map, concatenated and projected.

    The views are the image-level view, a 1x1 convolution and the atrous 3x3
    convolutions, in this order, as in the authors' code.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        rates: Sequence[int] = RATES[16],
        variant: Variant | None = None,
    ) -> None:
        """Build the module.

        Args:
            in_channels: C of the encoder's last feature map.
            rates: Atrous rate of each 3x3 branch, in feature-map cells.
            variant: Channels, image-level view, kinds of convolution.
        """
        super().__init__()
        variant = variant or Variant()
        channels, norm = variant.channels, variant.head_norm
        self.image_pool: ImagePool | None = None
        if variant.image_pool != "none":
            self.image_pool = ImagePool(in_channels, variant)
        self.branches = nn.ModuleList(
            [AtrousConv(in_channels, channels, kernel=1, norm=norm)]
        )
        for rate in rates:
            branch = atrous_conv(
                in_channels,
                channels,
                rate=rate,
                norm=norm,
                separable=variant.separable,
                norm_between=variant.separable_norm,
            )
            self.branches.append(branch)
        views = len(self.branches) + (self.image_pool is not None)
        self.project = AtrousConv(
            views * channels, channels, kernel=variant.project_kernel, norm=norm
        )
        self.dropout = nn.Dropout(variant.dropout)
        self._is_pool_bias = False

    @property
    def rates(self) -> tuple[int, ...]:
        """Atrous rate of each 3x3 branch."""
        return tuple(_spread(branch).dilation[0] for branch in list(self.branches)[1:])

    def set_rates(self, rates: Sequence[int]) -> None:
        """Change the rates; no parameter changes.

        Raises:
            ValueError: Not one rate for each 3x3 branch.
        """
        branches = list(self.branches)[1:]
        if len(rates) != len(branches):
            raise ValueError(
                f"atrous_rates must be {len(branches)} numbers, one for each 3x3 branch, "
                f"got {tuple(rates)}"
            )
        for branch, rate in zip(branches, rates, strict=True):
            set_unit(_spread(branch), Unit(stride=1, rate=rate))

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to context (N, channels, H, W).

        Raises:
            ValueError: Training the image-level view on one value per channel.
        """
        check_rates(self.rates, x)
        views = [branch(x) for branch in self.branches]
        if self.image_pool is not None and self._is_pool_bias:
            return self._join(self.image_pool.summary(x), torch.cat(views, dim=1))
        if self.image_pool is not None:
            views.insert(0, self.image_pool(x))
        context: Tensor = self.dropout(self.project(torch.cat(views, dim=1)))
        return context

    def pool_to_bias(self) -> None:
        """From now on add the image-level view as a bias, where that is the same.

        It is where the view is one vector an image, joined by a 1x1 convolution.
        """
        pool, kernel = self.image_pool, self.project.conv.kernel_size
        self._is_pool_bias = pool is not None and pool.kind == "global" and kernel == (1, 1)

    def _join(self, pooled: Tensor, views: Tensor) -> Tensor:
        """Project (N, C, 1, 1) and (N, views, H, W), each by its part of the kernel."""
        conv, width = self.project.conv, pooled.shape[1]
        bias = F.conv2d(pooled, conv.weight[:, :width])
        joined = F.conv2d(views, conv.weight[:, width:], conv.bias).add_(bias)
        context: Tensor = self.dropout(torch.relu_(self.project.bn(joined)))
        return context


def check_rates(rates: Sequence[int], x: Tensor) -> None:
    """Warn where a kernel's outer taps never meet the map (N, C, H, W)."""
    height, width = int(x.shape[2]), int(x.shape[3])
    if rates and max(rates) >= max(height, width):
        warnings.warn(
            f"atrous rate {max(rates)} must be below the feature map's sides to see "
            f"more than its centre, got a map of {height} x {width} cells; use larger "
            "images or tiles, a lower output stride, or lower atrous_rates",
            RateWarning,
            stacklevel=2,
        )


def _spread(branch: nn.Module) -> nn.Conv2d:
    if isinstance(branch, SeparableAtrousConv):
        return branch.depthwise
    assert isinstance(branch, AtrousConv)  # noqa: S101
    return branch.conv
