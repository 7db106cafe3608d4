"""Aligned Xception, modified for segmentation, as DeepLab's encoder.

Chen et al. 2018, arXiv:1802.02611, section 3.2 and figure 4: every max pooling is
a strided separable convolution. Where the text and the authors' code differ, this
is the code: ReLU stands before each separable convolution and nowhere within it,
but in the last block, which has it after each normalisation and no shortcut. A
block's result is not rectified, nor is the map that the decoder sees.

Shape letters: N batch, C channels, H and W the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import torch
from torch import Tensor, nn

from deeplab.atrous import AtrousConv, SameConv, batch_norm, conv, set_unit
from deeplab.backbones import Backbone, Features
from deeplab.rates import Unit, plan_encoder
from deeplab.separable import SeparableAtrousConv

if TYPE_CHECKING:
    from deeplab.variant import Norm, Variant


@dataclass(frozen=True, slots=True)
class _Spec:
    """One block of the table below."""

    channels: tuple[int, int, int]
    stride: int
    shortcut: Literal["conv", "sum", "none"]


def _entry(channels: int, stride: int) -> _Spec:
    return _Spec((channels,) * 3, stride, "conv")


_MIDDLE: Final = _Spec((728, 728, 728), 1, "sum")
_EXIT: Final = (
    _Spec((728, 1024, 1024), 2, "conv"),
    _Spec((1536, 1536, 2048), 1, "none"),
)
_ENTRY: Final = (_entry(128, 2), _entry(256, 2), _entry(728, 2))
_ENTRY71: Final = (
    _entry(128, 2),
    _entry(256, 1),
    _entry(256, 2),
    _entry(728, 1),
    _entry(728, 2),
)
_FLOWS: Final = {
    "xception41": (_ENTRY, 8),
    "xception65": (_ENTRY, 16),
    "xception71": (_ENTRY71, 16),
}


class XceptionBlock(nn.Module):
    """Three separable convolutions and a shortcut; the third has the stride."""

    def __init__(self, in_channels: int, spec: _Spec, norm: Norm) -> None:
        """Build a block; without shortcut it is the last one."""
        super().__init__()
        self.is_last = spec.shortcut == "none"
        self.convs = nn.ModuleList()
        self.shortcut: Shortcut | None = None
        if spec.shortcut == "conv":
            self.shortcut = Shortcut(in_channels, spec.channels[-1], norm)
        for channels in spec.channels:
            self.convs.append(
                SeparableAtrousConv(in_channels, channels, norm=norm, active=self.is_last)
            )
            in_channels = channels

    def set_units(self, units: tuple[Unit, Unit, Unit]) -> None:
        """Set stride and rate of each separable convolution."""
        for layer, unit in zip(self.convs, units, strict=True):
            set_unit(layer.depthwise, unit)  # type: ignore[arg-type]
        if self.shortcut is not None:
            set_unit(self.shortcut.conv, Unit(units[-1].stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the block's result."""
        return self.taps(x)[1]

    def taps(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The second separable convolution's map, and the block's result."""
        y, inner = x, x
        for index, layer in enumerate(self.convs):
            y = layer(y if self.is_last else torch.relu(y))
            inner = y if index == 1 else inner
        if self.is_last:
            return inner, y
        return inner, y + (x if self.shortcut is None else self.shortcut(x))


class Shortcut(nn.Module):
    """1x1 convolution and normalisation."""

    def __init__(self, in_channels: int, channels: int, norm: Norm) -> None:
        """Build the layer."""
        super().__init__()
        self.conv = conv(in_channels, channels, 1)
        self.bn = batch_norm(channels, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, channels, H / stride, W / stride)."""
        y: Tensor = self.bn(self.conv(x))
        return y


class Xception(Backbone):
    """Stem, entry flow, middle flow, exit flow."""

    low_channels = 256
    middle_channels = 728
    channels = 2048

    def __init__(self, name: str, *, bands: int, variant: Variant) -> None:
        """Build the network for output stride 32.

        Args:
            name: ``xception41``, ``xception65`` or ``xception71``.
            bands: Channels of the image.
            variant: Normalisation, dilation scheme, multi-grid, padding.

        Raises:
            ValueError: The variant does not go with this network.
        """
        super().__init__()
        _check(name, variant)
        self.variant = variant
        norm = variant.backbone_norm
        entry, middle = _FLOWS[name]
        self._specs = (*entry, *[_MIDDLE] * middle, *_EXIT)
        self._tapped = [spec.channels[0] for spec in entry].index(728) - 1
        self.stem = nn.Sequential(
            AtrousConv(bands, 32, norm=norm), AtrousConv(32, 64, norm=norm)
        )
        if variant.padding == "same":
            self.stem[0].conv = SameConv(bands, 32, 3, bias=False)
        set_unit(self.stem[0].conv, Unit(2, 1))  # type: ignore[arg-type]
        self.blocks = nn.ModuleList()
        channels = 64
        for spec in self._specs:
            self.blocks.append(XceptionBlock(channels, spec, norm))
            channels = spec.channels[-1]
        self.set_output_stride(32)

    def set_output_stride(self, output_stride: int) -> None:
        """Set strides and rates anew; no parameter changes."""
        # Multi-grid is for the convolutions of the last block.
        strides = [[spec.stride] for spec in self._specs[:-1]] + [[1, 1, 1]]
        plan = plan_encoder(
            strides, start=2, output_stride=output_stride, variant=self.variant
        )
        for block, units in zip(self.blocks, plan, strict=True):
            assert isinstance(block, XceptionBlock)  # noqa: S101
            if len(units) == 1:
                plain = Unit(1, units[0].rate)
                block.set_units((plain, plain, units[0]))
            else:
                block.set_units((units[0], units[1], units[2]))

    def forward(self, x: Tensor) -> Features:
        """Map images (N, bands, H, W) to the three maps."""
        x = self.stem(x)
        low = middle = x
        for index, block in enumerate(self.blocks):
            inner, x = block.taps(x)  # type: ignore[operator]
            low = inner if index == self._tapped else low
            middle = x if index == len(self.blocks) - len(_EXIT) - 1 else middle
        return Features(low, middle, x)


def _check(name: str, variant: Variant) -> None:
    wanted = ("unit", False, ())
    got = (variant.low_level, variant.last_conv, variant.stem)
    if got != wanted or variant.padding not in ("symmetric", "same"):
        raise ValueError(
            f"{name} has low_level, last_conv and stem {wanted}, and padding 'symmetric' "
            f"or 'same', got {got} and {variant.padding!r}"
        )
