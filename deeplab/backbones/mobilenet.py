"""MobileNetV2 (arXiv:1801.04381) as a DeepLab backbone, from torchvision's.

At output stride 16 the units after the last stride, ``features.15`` to
``features.17``, have rate 2, as in the authors' code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from torchvision.models import mobilenet_v2

from deeplab.atrous import limit_stride
from deeplab.backbones import Backbone, first_conv

if TYPE_CHECKING:
    from torch import Tensor
    from torchvision.models import MobileNetV2 as TorchvisionMobileNetV2

LOW_UNITS: Final = 4
"""Units up to and with the low-level map at stride 4."""


class MobileNetV2(Backbone):
    """The inverted residuals, without the last 1x1 convolution."""

    low_channels = 24
    channels = 320

    def __init__(
        self, network: TorchvisionMobileNetV2, *, bands: int, output_stride: int
    ) -> None:
        """Take over a network's units.

        Args:
            network: A torchvision MobileNetV2; its units are changed in place.
            bands: Channels of the image.
            output_stride: Image pixels per cell of the last map.
        """
        super().__init__()
        self.features = network.features[:-1]
        self.features[0][0] = first_conv(self.features[0][0], bands)
        limit_stride(self.features, stride=1, output_stride=output_stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, bands, H, W) to the maps at stride 4 and at output stride."""
        low = self.features[:LOW_UNITS](x)
        return low, self.features[LOW_UNITS:](low)


def build_mobilenet_v2(*, bands: int, output_stride: int) -> MobileNetV2:
    """Build MobileNetV2 with random weights."""
    return MobileNetV2(mobilenet_v2(weights=None), bands=bands, output_stride=output_stride)
