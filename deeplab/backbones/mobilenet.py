"""MobileNetV2, arXiv:1801.04381, and MobileNetV3-Large, arXiv:1905.02244.

V2 is built here, since published weights differ in how its units are padded; V3
is torchvision's network with its units' strides turned into rates.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_large

from deeplab.atrous import SameConv, batch_norm, conv, set_unit
from deeplab.backbones import Backbone, Features
from deeplab.rates import Unit, plan_encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deeplab.variant import Norm, Variant

_ROWS: Final = (  # table 2: expansion, channels, units, stride
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_LAST_CHANNELS: Final = 1280
_LOW: Final = 3  # the last unit at stride 4
_MIDDLE: Final = 13  # the last one of 96 channels


class MobileNetV2(Backbone):
    """A convolution and 17 inverted residuals; on request the last 1x1."""

    middle_channels = 96

    def __init__(self, name: str, *, bands: int, variant: Variant) -> None:
        """Build the network for output stride 32.

        Args:
            name: ``mobilenet_v2``.
            bands: Channels of the image.
            variant: Padding, dilation scheme, low-level map, last convolution.

        Raises:
            ValueError: The variant does not go with this network.
        """
        super().__init__()
        if variant.stem or set(variant.multi_grid) != {1}:
            raise ValueError(
                f"{name} has no stem and no multi_grid, "
                f"got {variant.stem} and {variant.multi_grid}"
            )
        self.variant = variant
        norm = variant.backbone_norm
        first = conv(bands, 32, 3, stride=2)
        if variant.padding == "same":
            first = _same(first)
        elif variant.padding == "expanded_valid":
            first.padding = (0, 0)
        self.features = nn.Sequential(_layer(first, norm))
        self._strides, channels = [[2]], 32
        for expansion, width, count, stride in _ROWS:
            for _ in range(count):
                self.features.append(
                    InvertedResidual(channels, width, expansion=expansion, variant=variant)
                )
                channels = width
            self._strides.append([stride] + [1] * (count - 1))
        if variant.last_conv:
            self.features.append(_layer(conv(channels, _LAST_CHANNELS, 1), norm))
        self.channels = _LAST_CHANNELS if variant.last_conv else channels
        self.low_channels = 144 if variant.low_level == "unit" else 24
        self.set_output_stride(32)

    def set_output_stride(self, output_stride: int) -> None:
        """Set strides and rates anew; no parameter changes."""
        plan = plan_encoder(
            self._strides, start=1, output_stride=output_stride, variant=self.variant
        )
        units = [unit for stage in plan for unit in stage]
        set_unit(cast("nn.Sequential", self.features[0])[0], units[0])  # type: ignore[arg-type]
        for index in range(1, len(units)):
            self._unit(index).set_unit(units[index])

    def forward(self, x: Tensor) -> Features:
        """Map images (N, bands, H, W) to the three maps."""
        if self.variant.padding == "expanded_valid":
            # Its kernel needs three rows and columns to stand on.
            x = F.pad(x, (0, max(0, 3 - x.shape[3]), 0, max(0, 3 - x.shape[2])))
        x = self.features[:_LOW](x)
        inner, x = self._unit(_LOW).taps(x)
        low = inner if self.variant.low_level == "unit" else x
        middle = self.features[_LOW + 1 : _MIDDLE + 1](x)
        return Features(low, middle, self.features[_MIDDLE + 1 :](middle))

    def _unit(self, index: int) -> InvertedResidual:
        return cast("InvertedResidual", self.features[index])


class InvertedResidual(nn.Module):
    """1x1 to more channels, 3x3 on each of them, 1x1 to fewer."""

    def __init__(
        self, in_channels: int, channels: int, *, expansion: int, variant: Variant
    ) -> None:
        """Build a unit with stride 1."""
        super().__init__()
        # A row's first unit changes channels or has a stride; the others add up.
        self.is_residual = in_channels == channels
        wide, norm = in_channels * expansion, variant.backbone_norm
        self.conv = nn.Sequential()
        if expansion > 1:
            self.conv.append(_layer(conv(in_channels, wide, 1), norm))
        spread = conv(wide, wide, 3, groups=wide)
        if variant.padding == "same":
            spread = _same(spread)
        self._pads_input = variant.padding.startswith("expanded")
        if self._pads_input:
            spread.padding = (0, 0)
        self.conv.append(_layer(spread, norm))
        self.conv.append(conv(wide, channels, 1))
        self.conv.append(batch_norm(channels, norm))

    def set_unit(self, unit: Unit) -> None:
        """Set stride and rate of the 3x3 convolution."""
        set_unit(self._depthwise(), unit)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the unit's result."""
        return self.taps(x)[1]

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The 3x3 convolution's map, and the unit's result."""
        y = x
        if self._pads_input:
            # As the origin does, before the expansion: the border then holds what
            # expansion and normalisation make of zeros.
            y = F.pad(x, [self._depthwise().dilation[0]] * 4)
        inner = self.conv[:-2](y)
        y = self.conv[-2:](inner)
        return inner, x + y if self.is_residual else y

    def _depthwise(self) -> nn.Conv2d:
        return cast("nn.Conv2d", cast("nn.Sequential", self.conv[-3])[0])


class MobileNetV3Large(Backbone):
    """torchvision's units and its last 1x1 convolution."""

    low_channels = 24
    middle_channels = 40
    channels = 960

    def __init__(self, name: str, *, bands: int, variant: Variant) -> None:
        """Build the network for output stride 32.

        Args:
            name: ``mobilenet_v3_large``.
            bands: Channels of the image.
            variant: Normalisation and dilation scheme.

        Raises:
            ValueError: The variant does not go with this network.
        """
        super().__init__()
        plain = (variant.low_level, variant.padding, variant.last_conv, variant.stem)
        if plain != ("stage", "symmetric", False, ()) or set(variant.multi_grid) != {1}:
            raise ValueError(
                f"{name} has one low_level, padding and stem, and no multi_grid, "
                f"got {plain} and {variant.multi_grid}"
            )
        self.variant = variant
        norm = variant.backbone_norm
        self.features = mobilenet_v3_large(weights=None).features
        for module in self.features.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = norm.eps, norm.momentum
        if bands != 3:  # noqa: PLR2004
            self.features[0][0] = conv(bands, 16, 3, stride=2)
        self._strides = [
            [max(layer.stride[0] for layer in _wide_convs([unit]))]
            for unit in self.features[:-1]
        ]
        self.set_output_stride(32)

    def set_output_stride(self, output_stride: int) -> None:
        """Set strides and rates anew; no parameter changes."""
        plan = plan_encoder(
            self._strides, start=1, output_stride=output_stride, variant=self.variant
        )
        for unit, (planned,) in zip(self.features, plan, strict=False):
            for layer in _wide_convs([unit]):
                set_unit(layer, planned)

    def forward(self, x: Tensor) -> Features:
        """Map images (N, bands, H, W) to the three maps."""
        low = self.features[:4](x)
        middle = self.features[4:5](low)
        return Features(low, middle, self.features[5:](middle))


def _wide_convs(units: Iterable[nn.Module]) -> list[nn.Conv2d]:
    """Convolutions of more than one tap."""
    return [
        layer
        for unit in units
        for layer in unit.modules()
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1)
    ]


def _layer(layer: nn.Conv2d, norm: Norm) -> nn.Sequential:
    channels = layer.out_channels
    return nn.Sequential(layer, batch_norm(channels, norm), nn.ReLU6(inplace=True))


def _same(layer: nn.Conv2d) -> SameConv:
    return SameConv(
        layer.in_channels,
        layer.out_channels,
        3,
        stride=layer.stride[0],
        groups=layer.groups,
        bias=False,
    )
