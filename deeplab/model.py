"""DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611) and the names to build it by.

Every network maps normalised images (N, bands, H, W) of any size to logits
(N, K, H, W) of the same size.

Shape letters: N batch, H and W the image, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from deeplab import aspp, decoder
from deeplab.backbones.mobilenet import build_mobilenet_v2
from deeplab.backbones.resnet import build_resnet18, build_resnet50

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deeplab.backbones import Backbone


class DeepLabV3Plus(nn.Module):
    """Backbone, atrous spatial pyramid pooling, decoder, classifier."""

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: int,
        rates: Sequence[int] = aspp.RATES[16],
        separable: bool = False,
    ) -> None:
        """Put the parts together.

        Args:
            backbone: Gives the low-level map and the map for the pyramid.
            classes: K.
            rates: Atrous rates of the pyramid's three 3x3 branches.
            separable: Depthwise separable 3x3 convolutions in pyramid and
                decoder instead of dense ones.
        """
        super().__init__()
        self.backbone = backbone
        self.aspp = aspp.ASPP(backbone.channels, rates=rates, separable=separable)
        self.decoder = decoder.Decoder(
            aspp.CHANNELS, backbone.low_channels, separable=separable
        )
        self.classifier = nn.Conv2d(decoder.CHANNELS, classes, 1)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, bands, H, W) to logits (N, K, H, W)."""
        low, high = self.backbone(x)
        # A 1x1 convolution and a resize commute: classify K maps, then enlarge.
        logits = self.classifier(self.decoder(self.aspp(high), low))
        return decoder.resize(logits, x.shape[2:])


class Linear(nn.Module):
    """A linear classifier of each pixel alone: the free baseline."""

    def __init__(self, *, classes: int, bands: int) -> None:
        """Build one 1x1 convolution from ``bands`` to ``classes``."""
        super().__init__()
        self.classifier = nn.Conv2d(bands, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, bands, H, W) to logits (N, K, H, W)."""
        logits: Tensor = self.classifier(x)
        return logits


class _BuildBackbone(Protocol):
    def __call__(self, *, bands: int, output_stride: int) -> Backbone: ...


@dataclass(frozen=True, slots=True)
class _Architecture:
    build_backbone: _BuildBackbone
    separable: bool


_LINEAR = "linear"
_ARCHITECTURES = {
    "deeplabv3plus_mobilenet_v2": _Architecture(build_mobilenet_v2, separable=True),
    "deeplabv3plus_resnet18": _Architecture(build_resnet18, separable=False),
    "deeplabv3plus_resnet50": _Architecture(build_resnet50, separable=False),
}


def models() -> list[str]:
    """Names that ``build`` knows, sorted."""
    return sorted([*_ARCHITECTURES, _LINEAR])


def build(
    name: str,
    *,
    classes: int,
    bands: int = 3,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    separable: bool | None = None,
) -> nn.Module:
    """Build a network with random weights, in training mode.

    Args:
        name: One of ``models()``.
        classes: K, the channels of the logits.
        bands: Channels of the image.
        output_stride: Image pixels per cell of the backbone's last map, 8 or
            16. It changes no parameter, only sharpness and cost.
        atrous_rates: The pyramid's three rates; by default those that belong to
            the output stride.
        separable: Depthwise separable convolutions in pyramid and decoder; by
            default for MobileNetV2 only.

    Returns:
        A module from normalised float images (N, bands, H, W), any H and W of
        at least 1, to logits (N, K, H, W). ``linear`` has no use for the last
        three arguments.

    Raises:
        ValueError: An argument is out of range.
    """
    if name not in models():
        raise ValueError(f"model must be one of {', '.join(models())}, got {name!r}")
    if classes < 1 or bands < 1:
        raise ValueError(f"classes and bands must be at least 1, got {classes=}, {bands=}")
    rates = _rates(output_stride, atrous_rates)
    if name == _LINEAR:
        return Linear(classes=classes, bands=bands)
    architecture = _ARCHITECTURES[name]
    return DeepLabV3Plus(
        architecture.build_backbone(bands=bands, output_stride=output_stride),
        classes=classes,
        rates=rates,
        separable=architecture.separable if separable is None else separable,
    )


def _rates(output_stride: int, given: Sequence[int] | None) -> tuple[int, ...]:
    if output_stride not in aspp.RATES:
        raise ValueError(f"output_stride must be 8 or 16, got {output_stride}")
    rates = aspp.RATES[output_stride] if given is None else tuple(given)
    if len(rates) != len(aspp.RATES[output_stride]) or min(rates) < 1:
        raise ValueError(f"atrous_rates must be three positive numbers, got {given}")
    return rates
