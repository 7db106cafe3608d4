"""ResNet (arXiv:1512.03385) as a DeepLab backbone, built from torchvision's.

torchvision refuses atrous rates for networks of basic blocks such as ResNet-18;
here strides are turned into rates module by module, so both kinds work. The
rates equal torchvision's where it has them: at output stride 16 the last
layer's blocks have rates 1, 2, 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from deeplab.atrous import limit_stride
from deeplab.backbones import Backbone, first_conv

if TYPE_CHECKING:
    from torchvision.models import ResNet as TorchvisionResNet


class ResNet(Backbone):
    """Stem and four layers; the low-level map is the first layer's result."""

    def __init__(
        self, network: TorchvisionResNet, *, bands: int, output_stride: int
    ) -> None:
        """Take over a network's layers.

        Args:
            network: A torchvision ResNet; its layers are changed in place.
            bands: Channels of the image.
            output_stride: Image pixels per cell of the last map.
        """
        super().__init__()
        conv = first_conv(network.conv1, bands)
        self.stem = nn.Sequential(conv, network.bn1, network.relu, network.maxpool)
        self.layer1 = network.layer1
        self.layer2 = network.layer2
        self.layer3 = network.layer3
        self.layer4 = network.layer4
        layers = (self.layer1, self.layer2, self.layer3, self.layer4)
        blocks = [block for layer in layers for block in layer]
        limit_stride(blocks, stride=4, output_stride=output_stride)
        self.channels: int = network.fc.in_features
        self.low_channels = self.channels // 8

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, bands, H, W) to the maps at stride 4 and at output stride."""
        low = self.layer1(self.stem(x))
        return low, self.layer4(self.layer3(self.layer2(low)))


def build_resnet18(*, bands: int, output_stride: int) -> ResNet:
    """Build ResNet-18 with random weights."""
    return ResNet(resnet18(weights=None), bands=bands, output_stride=output_stride)


def build_resnet50(*, bands: int, output_stride: int) -> ResNet:
    """Build ResNet-50 with random weights."""
    return ResNet(resnet50(weights=None), bands=bands, output_stride=output_stride)
