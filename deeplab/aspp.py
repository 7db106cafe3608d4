"""Atrous spatial pyramid pooling, the context module of DeepLabV3+.

Chen et al. 2017, arXiv:1706.05587, section 3.3; separable branches as in
Chen et al. 2018, arXiv:1802.02611, section 3.1.

Shape letters: N batch, C channels, H and W the feature map (image / stride).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from deeplab.atrous import AtrousConv, atrous_conv

if TYPE_CHECKING:
    from collections.abc import Sequence

RATES: Final[dict[int, tuple[int, int, int]]] = {16: (6, 12, 18), 8: (12, 24, 36)}
"""Rates of the three 3x3 branches for each output stride (section 3.3)."""

CHANNELS: Final = 256
"""Channels of each branch and of the result (section 3.3)."""

DROPOUT: Final = 0.1
"""Share of result channels dropped in training, as in the authors' code."""


class ASPP(nn.Module):
    """Five parallel views of one feature map, concatenated and projected.

    The views are the mean over the whole map, a 1x1 convolution and three
    atrous 3x3 convolutions, in this order. The mean makes every output pixel
    depend on every input pixel, so a tile's result depends on the tile's size:
    callers that cut an image into tiles must keep the size fixed.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        rates: Sequence[int] = RATES[16],
        separable: bool = False,
        channels: int = CHANNELS,
    ) -> None:
        """Build the module.

        Args:
            in_channels: C of the backbone's last feature map.
            rates: Atrous rate of each 3x3 branch, in feature-map cells.
            separable: Depthwise separable 3x3 branches instead of dense ones.
            channels: C of each view and of the result.
        """
        super().__init__()
        self.image_pool = AtrousConv(in_channels, channels, kernel=1)
        self.branches = nn.ModuleList([AtrousConv(in_channels, channels, kernel=1)])
        self.branches.extend(
            atrous_conv(in_channels, channels, rate=rate, separable=separable)
            for rate in rates
        )
        views = 1 + len(self.branches)
        self.project = AtrousConv(views * channels, channels, kernel=1)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        """Map features (N, in_channels, H, W) to context (N, channels, H, W).

        Raises:
            ValueError: Training on a batch of one image: the pooled map then
                has one value per channel, which has no variance to normalise by.
        """
        if self.image_pool.bn.training and len(x) == 1:
            raise ValueError(
                "training needs at least 2 images a batch, got 1; "
                "raise the batch size, or drop the last short batch"
            )
        pooled = self.image_pool(x.mean((2, 3), keepdim=True))
        # Resizing a 1x1 map bilinearly only repeats it, so expand it instead.
        views = [pooled.expand(-1, -1, *x.shape[2:])]
        views += [branch(x) for branch in self.branches]
        context: Tensor = self.dropout(self.project(torch.cat(views, dim=1)))
        return context
