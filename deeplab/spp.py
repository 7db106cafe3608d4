"""Spatial pyramid pooling, the context module that ASPP came from.

He et al. 2014, arXiv:1406.4729, section 2.2: the strongest response of each
channel in 4x4, 2x2 and 1x1 bins that divide the map whatever its size, 21 values
in all. Here each level is reduced, enlarged to the map again and joined with it.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.atrous import AtrousConv
from deeplab.image_pool import check_batch
from deeplab.resize import resize

if TYPE_CHECKING:
    from deeplab.variant import Variant

BINS: Final = (4, 2, 1)
"""Rows and columns of bins of each level."""


class SPP(nn.Module):
    """The map and its pyramid of bins, concatenated and projected."""

    def __init__(self, in_channels: int, variant: Variant) -> None:
        """Build the module.

        Args:
            in_channels: C of the encoder's last map.
            variant: Channels, normalisation, dropout and resizing.
        """
        super().__init__()
        channels, norm = variant.channels, variant.head_norm
        self.align_corners = variant.align_corners
        self.levels = nn.ModuleList(
            AtrousConv(in_channels, channels, kernel=1, norm=norm) for _ in BINS
        )
        joined = in_channels + len(BINS) * channels
        self.project = AtrousConv(joined, channels, kernel=1, norm=norm)
        self.dropout = nn.Dropout(variant.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to context (N, channels, H, W).

        Raises:
            ValueError: Training with a batch of one image.
        """
        size = (x.shape[2], x.shape[3])
        views = [x]
        for level, bins in zip(self.levels, BINS, strict=True):
            pooled = F.adaptive_max_pool2d(x, bins)
            check_batch(level.bn, pooled)  # type: ignore[arg-type]
            views.append(resize(level(pooled), size, align_corners=self.align_corners))
        context: Tensor = self.dropout(self.project(torch.cat(views, dim=1)))
        return context


def pyramid(x: Tensor) -> Tensor:
    """Pool (N, C, H, W) of any size to the fixed length (N, C, 21)."""
    return torch.cat([F.adaptive_max_pool2d(x, bins).flatten(2) for bins in BINS], dim=2)
