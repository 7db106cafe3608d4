"""DeepLabV3 and DeepLabV3+, and the names to build them by.

Chen et al. 2017, arXiv:1706.05587 (V3: encoder, context, classifier) and Chen et
al. 2018, arXiv:1802.02611, figure 2 (V3+: with a decoder).

Every network maps normalised images (N, bands, H, W) of any size to logits
(N, K, H, W) of the same size.

Shape letters: N batch, H and W the image, h and w the logits' cells, K classes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Final, Self

from torch import Tensor, nn

from deeplab.aspp import ASPP
from deeplab.auxiliary import AuxiliaryHead
from deeplab.backbones.mobilenet import MobileNetV2, MobileNetV3Large
from deeplab.backbones.resnet import ResNet
from deeplab.backbones.xception import Xception
from deeplab.decoder import Decoder
from deeplab.initial import initialise
from deeplab.resize import resize
from deeplab.separable import atrous_conv
from deeplab.spp import SPP
from deeplab.variant import LINEAR, Network, architectures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deeplab.backbones import Backbone
    from deeplab.variant import Variant

_FAMILIES: Final[dict[str, Callable[..., Backbone]]] = {
    "resnet": ResNet,
    "xception": Xception,
    "mobilenet_v2": MobileNetV2,
    "mobilenet_v3": MobileNetV3Large,
}


class DeepLab(nn.Module):
    """Encoder, context module, decoder (V3+ alone), classifier."""

    def __init__(self, network: Network) -> None:
        """Put the parts together.

        Args:
            network: What to build.

        Raises:
            ValueError: The variant does not go with the encoder.
        """
        super().__init__()
        self.network = network
        variant = network.choices
        self.align_corners = variant.align_corners
        self._context_kind = variant.context  # looked up here: a compiler cannot trace it
        self.backbone = _build_encoder(network)
        if variant.context == "spp":
            self.spp = SPP(self.backbone.channels, variant)
        else:
            self.aspp = ASPP(self.backbone.channels, rates=network.rates, variant=variant)
        self.refine = None if variant.refine == "none" else _refine(variant)
        self.decoder: Decoder | None = None
        if network.head == "deeplabv3plus":
            self.decoder = Decoder(self.backbone.low_channels, variant)
        self.classifier = nn.Conv2d(variant.channels, network.classes, 1)
        self.aux: AuxiliaryHead | None = None
        if variant.aux:
            self.aux = AuxiliaryHead(self.backbone.middle_channels, network)
        self._is_bn_frozen = False
        self.backbone.set_output_stride(network.output_stride)
        initialise(self)

    @property
    def context(self) -> ASPP | SPP:
        """The context module, whichever it is."""
        return self.spp if self._context_kind == "spp" else self.aspp

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, bands, H, W) to logits (N, K, H, W)."""
        return self.enlarge(self.classify(x), x)

    def classify(self, x: Tensor) -> Tensor:
        """Map images to logits (N, K, h, w) at the last map's cells."""
        return self._decode(*self._encode(x))

    def forward_with_aux(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map images to the logits and those of the auxiliary head, both (N, K, H, W).

        Raises:
            ValueError: The network has no auxiliary head.
        """
        if self.aux is None:
            raise ValueError("the network has no auxiliary head; build it with aux=True")
        low, middle, high = self._encode(x)
        logits = self._decode(low, middle, high)
        return self.enlarge(logits, x), self.enlarge(self.aux(middle), x)

    def enlarge(self, logits: Tensor, image: Tensor) -> Tensor:
        """Resize logits (N, K, h, w) to the rows and columns of the image."""
        size = (image.shape[2], image.shape[3])
        return resize(logits, size, align_corners=self.align_corners)

    def set_output_stride(
        self, output_stride: int, atrous_rates: Sequence[int] | None = None
    ) -> None:
        """Change the output stride; no parameter changes.

        Args:
            output_stride: 8, 16 or 32.
            atrous_rates: The pyramid's rates; None for those of the output stride.

        Raises:
            ValueError: An argument is out of range.
        """
        given = None if atrous_rates is None else tuple(atrous_rates)
        if given is None and not self.network.rates:
            given = ()  # a pyramid without atrous branches stays without
        network = dataclasses.replace(
            self.network, output_stride=output_stride, atrous_rates=given
        )
        if network.choices.context == "aspp":
            self.aspp.set_rates(network.rates)
        self.backbone.set_output_stride(output_stride)
        self.network = network

    def freeze_bn(self, frozen: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Keep the statistics of batch normalisation, also after ``train()``."""
        self._is_bn_frozen = frozen
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:  # noqa: FBT001, FBT002
        """Set training mode; frozen batch normalisation stays in evaluation."""
        super().train(mode)
        if self._is_bn_frozen:
            freeze_bn(self)
        return self

    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, middle, high = self.backbone(x)
        return low, middle, high

    def _decode(self, low: Tensor, _: Tensor, high: Tensor) -> Tensor:
        context = self.context(high)
        if self.refine is not None:
            context = self.refine(context)
        if self.decoder is not None:
            context = self.decoder(context, low)
        # A 1x1 convolution and a resize commute: classify K maps, then enlarge.
        logits: Tensor = self.classifier(context)
        return logits


class Linear(nn.Module):
    """A linear classifier of each pixel alone: the free baseline."""

    def __init__(self, network: Network) -> None:
        """Build one 1x1 convolution from bands to classes."""
        super().__init__()
        self.network = network
        self.classifier = nn.Conv2d(network.bands, network.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, bands, H, W) to logits (N, K, H, W)."""
        return self.classify(x)

    def classify(self, x: Tensor) -> Tensor:
        """Map images to logits; its cells are pixels."""
        logits: Tensor = self.classifier(x)
        return logits


def models() -> list[str]:
    """Names that ``build`` knows, sorted."""
    return architectures()


def build(
    name: str,
    *,
    classes: int,
    bands: int = 3,
    output_stride: int = 16,
    atrous_rates: Sequence[int] | None = None,
    variant: Variant | None = None,
) -> DeepLab | Linear:
    """Build a network with random weights, in training mode.

    Args:
        name: One of ``models()``.
        classes: K, the channels of the logits.
        bands: Channels of the image.
        output_stride: Image pixels per cell of the encoder's last map: 8, 16 or
            32. It changes no parameter, only sharpness and cost.
        atrous_rates: The pyramid's rates; by default those that belong to the
            output stride.
        variant: Every other choice; by default the architecture's own.

    Returns:
        A module from normalised float images (N, bands, H, W), any H and W of
        at least 1, to logits (N, K, H, W). ``linear`` has no use for the last
        three arguments.

    Raises:
        ValueError: An argument is out of range.
    """
    rates = None if atrous_rates is None else tuple(atrous_rates)
    return build_network(
        Network(
            architecture=name,
            classes=classes,
            bands=bands,
            output_stride=output_stride,
            atrous_rates=rates,
            variant=variant,
        )
    )


def build_network(network: Network) -> DeepLab | Linear:
    """Build what a ``Network`` describes; see ``build``."""
    return Linear(network) if network.architecture == LINEAR else DeepLab(network)


def freeze_bn(model: nn.Module) -> None:
    """Set batch normalisation to evaluation until the next ``train()``."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def _build_encoder(network: Network) -> Backbone:
    family = next(f for name, f in _FAMILIES.items() if network.encoder.startswith(name))
    return family(network.encoder, bands=network.bands, variant=network.choices)


def _refine(variant: Variant) -> nn.Module:
    return atrous_conv(
        variant.channels,
        variant.channels,
        norm=variant.head_norm,
        separable=variant.refine == "separable",
        norm_between=variant.separable_norm,
    )
