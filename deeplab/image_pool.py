"""Image-level pooling: what the whole image, or a fixed part of it, is about.

Chen et al. 2017, arXiv:1706.05587, section 3.3. The mean over the whole map makes
each output pixel depend on each input pixel, so a tile's result depends on where
the tile was cut. A window of fixed size sees the same at every place of a raster,
as the authors' ``image_pooling_crop_size`` means it to.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.atrous import batch_norm
from deeplab.resize import resize

if TYPE_CHECKING:
    from deeplab.variant import Variant

_GROUPS: Final = 32


class ImagePool(nn.Module):
    """Mean over the map or a window, 1x1 convolution, normalisation, ReLU."""

    def __init__(self, in_channels: int, variant: Variant) -> None:
        """Build the module.

        Args:
            in_channels: C of the feature map.
            variant: Says which mean, which normalisation and how many channels.

        Raises:
            ValueError: The variant has no image-level view, or group
                normalisation over channels that 32 does not divide.
        """
        super().__init__()
        if variant.image_pool == "none":
            raise ValueError("image_pool must be global, window or valid, got 'none'")
        self.kind = variant.image_pool
        self.window = variant.pool_window or (1, 1)
        self.align_corners = variant.align_corners
        channels = variant.channels
        self.conv = nn.Conv2d(in_channels, channels, 1, bias=variant.pool_norm == "none")
        # Named like its siblings, whatever normalises.
        self.bn: nn.Module = nn.Identity()
        if variant.pool_norm == "batch":
            self.bn = batch_norm(channels, variant.head_norm)
        elif variant.pool_norm == "group":
            self.bn = nn.GroupNorm(_GROUPS, channels, eps=variant.head_norm.eps)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to the view (N, channels, H, W).

        Raises:
            ValueError: See ``summary``.
        """
        view = self.summary(x)
        if self.kind == "global":
            # Resizing a 1x1 map bilinearly only repeats it, so expand it instead.
            return view.expand(-1, -1, *x.shape[2:])
        return resize(view, (x.shape[2], x.shape[3]), align_corners=self.align_corners)

    def summary(self, x: Tensor) -> Tensor:
        """Map features to the view before it is enlarged to the map.

        Raises:
            ValueError: Training with batch normalisation on one value per
                channel, which has no variance to normalise by.
        """
        means = self._means(x)
        check_batch(self.bn, means)
        return torch.relu_(self.bn(self.conv(means)))

    def _means(self, x: Tensor) -> Tensor:
        if self.kind == "global":
            return x.mean((2, 3), keepdim=True)
        if self.kind == "window":
            return window_means(x, self.window)
        height, width = self.window
        window = (min(height, x.shape[2]), min(width, x.shape[3]))
        return F.avg_pool2d(x, window, stride=1)


def window_means(x: Tensor, window: tuple[int, int]) -> Tensor:
    """Mean of (N, C, H, W) over the window around each cell, inside the map alone.

    A window of even length reaches one cell further up or left than down or
    right. Cells further than half a window from the border get the same value
    wherever the map was cut from a larger one.
    """
    height, width = window
    # One axis after the other: H + W additions a cell instead of H * W.
    rows = F.avg_pool2d(
        x, (height, 1), stride=1, padding=(height // 2, 0), count_include_pad=False
    )[:, :, : x.shape[2]]
    return F.avg_pool2d(
        rows, (1, width), stride=1, padding=(0, width // 2), count_include_pad=False
    )[:, :, :, : x.shape[3]]


def check_batch(norm: nn.Module, x: Tensor) -> None:
    """Refuse to train batch normalisation on one value per channel."""
    one_value = x.shape[0] * x.shape[2] * x.shape[3] == 1
    if one_value and isinstance(norm, nn.BatchNorm2d) and norm.training:
        raise ValueError(
            "training needs at least 2 images a batch, got 1; raise the batch size, "
            "drop the last short batch, freeze batch normalisation with freeze_bn(), "
            "or build with pool_norm 'group' or 'none'"
        )
