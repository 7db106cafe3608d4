"""ResNet, arXiv:1512.03385, as DeepLab's encoder.

Figure 5 gives the two kinds of block; the stride is in the 3x3 convolution. The
"beta" stem has three 3x3 convolutions instead of one 7x7. TensorFlow's ResNet has
the strides of its layers in their last blocks, so that the block that loses its
stride comes one earlier, and the decoder looks inside a block (DeepLab's authors
take the second block's last map before it is added).

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab.atrous import batch_norm, conv, pad_same, set_unit
from deeplab.backbones import Backbone, Features
from deeplab.rates import Unit, plan_encoder

if TYPE_CHECKING:
    from deeplab.variant import Norm, Variant

_TAPPED: Final = 1  # the block of the first layer that a decoder may look into


class Block(nn.Module, ABC):
    """A residual branch added to its input, or to a projection of it."""

    downsample: nn.Sequential | None

    @abstractmethod
    def residual(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the residual, before the addition."""

    @abstractmethod
    def set_unit(self, unit: Unit) -> None:
        """Set stride and rate."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the block's result."""
        return self.join(self.residual(x), x)

    def join(self, residual: Tensor, x: Tensor) -> Tensor:
        """Add the input, or its projection, and rectify."""
        if self.downsample is not None:
            x = self.downsample(x)
        elif self._unit.stride > 1:
            x = x[:, :, :: self._unit.stride, :: self._unit.stride]
        return torch.relu_(residual + x)

    def _set_unit(self, spread: nn.Conv2d, unit: Unit) -> None:
        self._unit = unit
        set_unit(spread, unit)
        if self.downsample is not None:
            projection = cast("nn.Conv2d", self.downsample[0])
            set_unit(projection, Unit(unit.stride, 1))


class BasicBlock(Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion: Final = 1

    def __init__(self, in_channels: int, width: int, variant: Variant) -> None:
        """Build a block of ``width`` channels."""
        super().__init__()
        norm = variant.backbone_norm
        self.conv1 = conv(in_channels, width, 3)
        self.bn1 = batch_norm(width, norm)
        self.conv2 = conv(width, width, 3)
        self.bn2 = batch_norm(width, norm)
        self.downsample = _projection(in_channels, width, norm)
        self._second_is_plain = variant.dilation == "mmseg_mg"

    def residual(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the residual, before the addition."""
        x = torch.relu_(self.bn1(self.conv1(x)))
        residual: Tensor = self.bn2(self.conv2(x))
        return residual

    def set_unit(self, unit: Unit) -> None:
        """Set stride and rate; mmsegmentation gives the rate to the first alone."""
        self._set_unit(self.conv1, unit)
        set_unit(self.conv2, Unit(1, 1 if self._second_is_plain else unit.rate))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions (ResNet-50 and -101)."""

    expansion: Final = 4

    def __init__(self, in_channels: int, width: int, variant: Variant) -> None:
        """Build a block of four times ``width`` channels."""
        super().__init__()
        norm, channels = variant.backbone_norm, width * self.expansion
        self.conv1 = conv(in_channels, width, 1)
        self.bn1 = batch_norm(width, norm)
        self.conv2 = conv(width, width, 3)
        self.bn2 = batch_norm(width, norm)
        self.conv3 = conv(width, channels, 1)
        self.bn3 = batch_norm(channels, norm)
        self.downsample = _projection(in_channels, channels, norm)

    def residual(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the residual, before the addition."""
        x = torch.relu_(self.bn1(self.conv1(x)))
        x = torch.relu_(self.bn2(self.conv2(x)))
        residual: Tensor = self.bn3(self.conv3(x))
        return residual

    def set_unit(self, unit: Unit) -> None:
        """Set stride and rate of the 3x3 convolution."""
        self._set_unit(self.conv2, unit)


@dataclass(frozen=True, slots=True)
class _Depth:
    block: type[BasicBlock | Bottleneck]
    layers: tuple[int, int, int, int]


_DEPTHS: Final = {
    "resnet18": _Depth(BasicBlock, (2, 2, 2, 2)),
    "resnet34": _Depth(BasicBlock, (3, 4, 6, 3)),
    "resnet50": _Depth(Bottleneck, (3, 4, 6, 3)),
    "resnet101": _Depth(Bottleneck, (3, 4, 23, 3)),
}


class ResNet(Backbone):
    """Stem and four layers of blocks."""

    def __init__(self, name: str, *, bands: int, variant: Variant) -> None:
        """Build the network for output stride 32.

        Args:
            name: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
            bands: Channels of the image.
            variant: Stem, dilation scheme, low-level map, padding.

        Raises:
            ValueError: The variant does not go with this network.
        """
        super().__init__()
        depth = _DEPTHS[name]
        _check(name, depth, variant)
        self.variant = variant
        self.stem = _stem(bands, variant)
        channels = variant.stem[-1] if variant.stem else 64
        layers = [nn.Sequential() for _ in depth.layers]
        for index, count in enumerate(depth.layers):
            for _ in range(count):
                layers[index].append(depth.block(channels, 64 * 2**index, variant))
                channels = 64 * 2**index * depth.block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        self.channels = channels
        self.middle_channels = channels // 2
        self.low_channels = channels // 8
        self.set_output_stride(32)

    def set_output_stride(self, output_stride: int) -> None:
        """Set strides and rates anew; no parameter changes."""
        layers = [
            _blocks(layer) for layer in (self.layer1, self.layer2, self.layer3, self.layer4)
        ]
        strides = [[1] * len(layer) for layer in layers]
        for index in (1, 2, 3):
            if self.variant.dilation == "tf":
                strides[index - 1][-1] = 2
            else:
                strides[index][0] = 2
        plan = plan_encoder(
            strides, start=4, output_stride=output_stride, variant=self.variant
        )
        for layer, units in zip(layers, plan, strict=True):
            for block, unit in zip(layer, units, strict=True):
                block.set_unit(unit)

    def forward(self, x: Tensor) -> Features:
        """Map images (N, bands, H, W) to the three maps."""
        x = self._pool(self.stem(x))
        inner = x
        for index, block in enumerate(_blocks(self.layer1)):
            residual = block.residual(x)
            inner = residual if index == _TAPPED else inner
            x = block.join(residual, x)
        low = inner if self.variant.low_level == "unit" else x
        middle = self.layer3(self.layer2(x))
        return Features(low, middle, self.layer4(middle))

    def _pool(self, x: Tensor) -> Tensor:
        if self.variant.padding == "same":
            # The map is rectified, so zeros do not change a maximum.
            return F.max_pool2d(pad_same(x, reach=3, stride=2), 3, stride=2)
        return F.max_pool2d(x, 3, stride=2, padding=1)


def _stem(bands: int, variant: Variant) -> nn.Sequential:
    """Pairs of convolution and normalisation, numbered as if ReLU were none."""
    if not variant.stem:
        first = conv(bands, 64, 7, stride=2)
        return Stem(first, batch_norm(64, variant.backbone_norm))
    pairs: list[nn.Module] = []
    channels = bands
    for index, width in enumerate(variant.stem):
        pairs.append(conv(channels, width, 3, stride=1 if index else 2))
        pairs.append(batch_norm(width, variant.backbone_norm))
        channels = width
    return Stem(*pairs)


class Stem(nn.Sequential):
    """Convolutions with normalisation, each rectified."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, bands, H, W) to (N, C, H / 2, W / 2)."""
        layers = list(self)
        for layer, norm in zip(layers[::2], layers[1::2], strict=True):
            x = torch.relu_(norm(layer(x)))
        return x


def _blocks(layer: nn.Sequential) -> list[Block]:
    return cast("list[Block]", list(layer))


def _projection(in_channels: int, channels: int, norm: Norm) -> nn.Sequential | None:
    """Bring the input to the residual's channels; layer 1 of basic blocks need not."""
    if in_channels == channels:
        return None
    return nn.Sequential(conv(in_channels, channels, 1), batch_norm(channels, norm))


def _check(name: str, depth: _Depth, variant: Variant) -> None:
    inside = variant.low_level == "unit"
    if inside != (variant.dilation == "tf") or (inside and depth.block is BasicBlock):
        raise ValueError(
            "dilation 'tf' and low_level 'unit' go together, with resnet50 and resnet101 "
            f"alone, got {variant.dilation!r} and {variant.low_level!r} for {name}"
        )
    if variant.padding not in ("symmetric", "same") or variant.last_conv:
        raise ValueError(
            f"{name} has no last_conv and padding 'symmetric' or 'same', "
            f"got {variant.last_conv} and {variant.padding!r}"
        )
