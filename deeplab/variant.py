"""The choices in which faithful DeepLabs differ, as data.

The papers leave some of them open, and each project that published weights made
its own: which unit gets which atrous rate, where the decoder looks, how a map is
enlarged, what a border is padded with. A network computes what its weights were
trained for only under the same choices, so a bundle carries them. This module
needs no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

RATES: Final[dict[int, tuple[int, int, int]]] = {
    8: (12, 24, 36),
    16: (6, 12, 18),
    32: (3, 6, 9),
}
"""Rates of the pyramid's 3x3 branches for each output stride (arXiv:1706.05587,
section 3.3; the authors double them at 8 and halve them at 32)."""

ENCODERS: Final = (
    "mobilenet_v2",
    "mobilenet_v3_large",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "xception41",
    "xception65",
    "xception71",
)
HEADS: Final = ("deeplabv3", "deeplabv3plus")
_MAX_BRANCHES: Final = 8
_MAX_CONVS: Final = 16
LINEAR: Final = "linear"
"""A linear classifier of single pixels: the free baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """How batch normalisation is set up in one part of a network."""

    eps: float = 1e-5
    """Added to the variance."""

    momentum: float = 0.1
    """Share of the newest batch in the running statistics: 1 - TensorFlow's decay."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not all(_is_share(value) for value in (self.eps, self.momentum)):
            raise ValueError(
                "eps and momentum must be above 0 and at most 1, "
                f"got {self.eps!r} and {self.momentum!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """Every choice beyond encoder, head, classes and output stride."""

    stem: tuple[int, ...] = ()
    """ResNet: channels of the three 3x3 convolutions of the "beta" stem; empty for
    the one 7x7 of 64."""

    dilation: Literal["torchvision", "tf", "all", "stage", "mmseg_mg"] = "torchvision"
    """Which units get the atrous rate when a stride is removed; see
    ``deeplab.atrous.plan_units``."""

    multi_grid: tuple[int, ...] = (1, 1, 1)
    """Factors of the rates of the last stage's units (arXiv:1706.05587, 3.2.1)."""

    padding: Literal["symmetric", "same", "expanded", "expanded_valid"] = "symmetric"
    """``same``: TensorFlow's, which on even sizes pads below and right alone;
    of Xception's, the first convolution. MobileNetV2: ``expanded`` pads before a
    unit's expansion, ``expanded_valid`` leaves the first convolution without padding
    besides."""

    last_conv: bool = False
    """MobileNetV2: keep its last 1x1 convolution, of 1280 channels."""

    low_level: Literal["stage", "unit"] = "stage"
    """What the decoder sees: the result of the stage at stride 4, or a map inside
    one of its units, before the addition or the activation, as the authors do."""

    backbone_norm: Norm = field(default_factory=Norm)
    """Of the encoder."""

    context: Literal["aspp", "spp"] = "aspp"
    """Atrous spatial pyramid pooling, or the pooling in bins that it came from."""

    channels: int = 256
    """Of the context and of the decoder's convolutions."""

    separable: bool = False
    """Depthwise separable 3x3 branches in the pyramid instead of dense ones."""

    separable_norm: bool = True
    """Normalise and rectify between depthwise and pointwise convolution too."""

    image_pool: Literal["global", "window", "valid", "none"] = "global"
    """Image-level view: mean of the whole map; of the window around each cell; of
    each window that lies in the map, enlarged to the map; or no such view."""

    pool_window: tuple[int, int] | None = None
    """Rows and columns of that window in cells; None for ``global`` and ``none``."""

    pool_norm: Literal["batch", "group", "none"] = "batch"
    """Normalisation of the image-level view; ``none`` gives it a bias instead."""

    project_kernel: Literal[1, 3] = 1
    """Rows and columns of the kernel that joins the pyramid's views."""

    refine: Literal["none", "dense", "separable"] = "none"
    """A further 3x3 convolution right after the context."""

    low_level_channels: int = 48
    """Kept of the low-level map (arXiv:1802.02611, table 1)."""

    decoder_convs: int = 2
    """3x3 convolutions of the decoder (arXiv:1802.02611, table 2)."""

    decoder_separable: bool = False
    """Depthwise separable convolutions in the decoder instead of dense ones."""

    head_norm: Norm = field(default_factory=Norm)
    """Of context and decoder."""

    dropout: float = 0.1
    """Share of context channels dropped in training."""

    align_corners: bool = False
    """Whether resizing maps the centres of the corner cells on one another."""

    aux: bool = False
    """Carry an auxiliary head, which looks at an earlier map in training."""

    def __post_init__(self) -> None:
        """Check the fields."""
        for name, allowed in _ALLOWED.items():
            value = getattr(self, name)
            if value not in allowed or type(value) is not type(allowed[0]):
                listed = ", ".join(map(repr, allowed))
                raise ValueError(f"{name} must be one of {listed}, got {value!r}")
        self._check_numbers()
        windowed = self.image_pool in ("window", "valid")
        if windowed != (self.pool_window is not None):
            raise ValueError(
                "pool_window belongs to image_pool 'window' or 'valid', "
                f"got {self.pool_window} for {self.image_pool!r}"
            )

    def _check_numbers(self) -> None:
        counts = (self.channels, self.low_level_channels, *(self.pool_window or ()))
        if not all(is_count(value) for value in (*counts, *self.stem, *self.multi_grid)):
            raise ValueError(f"channels, windows and rates must be positive, got {self}")
        if len(self.stem) not in (0, 3) or len(self.multi_grid) != 3:  # noqa: PLR2004
            raise ValueError(
                f"stem has 0 or 3 numbers and multi_grid 3, got {self.stem} and "
                f"{self.multi_grid}"
            )
        drops = isinstance(self.dropout, int | float) and 0 <= self.dropout < 1
        convs = self.decoder_convs
        if not is_count(convs) or convs > _MAX_CONVS or not drops:
            raise ValueError(
                f"decoder_convs must be 1 to {_MAX_CONVS} and dropout from 0 to below 1, "
                f"got {self.decoder_convs} and {self.dropout}"
            )


_HINTS: Final = get_type_hints(Variant)
_ALLOWED: Final[dict[str, tuple[object, ...]]] = {
    name: (False, True) if hint is bool else get_args(hint)
    for name, hint in _HINTS.items()
    if hint is bool or get_origin(hint) is Literal
}
"""What a field may be, where that is a short list."""


def parse_variant(fields: object) -> Variant:
    """Read a variant from JSON as ``dataclasses.asdict`` wrote it.

    Raises:
        ValueError: A field is missing, unknown or out of range.
    """
    if not isinstance(fields, dict) or fields.keys() != _HINTS.keys():
        names = fields.keys() ^ _HINTS.keys() if isinstance(fields, dict) else _HINTS.keys()
        raise ValueError(f"variant lacks or does not know: {', '.join(sorted(names))}")
    parsed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in fields.items()
    }
    for name in ("backbone_norm", "head_norm"):
        if not isinstance(parsed[name], dict) or parsed[name].keys() != _NORM_FIELDS:
            raise ValueError(f"{name} must have eps and momentum, got {parsed[name]!r}")
        parsed[name] = Norm(**parsed[name])
    return Variant(**parsed)


_NORM_FIELDS: Final = {"eps", "momentum"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """All that fixes a network but its weights."""

    architecture: str
    """``linear``, or head and encoder, e.g. ``deeplabv3plus_resnet50``."""

    classes: int
    """K, the channels of the logits."""

    bands: int = 3
    """Channels of the image."""

    output_stride: int = 16
    """Image pixels per cell of the encoder's last map: 8, 16 or 32. It changes no
    parameter."""

    atrous_rates: tuple[int, ...] | None = None
    """Of the pyramid's 3x3 branches; None for those of the output stride, empty for
    a pyramid without such branches."""

    variant: Variant | None = None
    """None for the encoder's own; see ``default_variant``."""

    def __post_init__(self) -> None:
        """Check the fields and fill in the variant."""
        check_architecture(self.architecture)
        if not is_count(self.classes) or not is_count(self.bands):
            raise ValueError(
                "classes and bands must be at least 1, got "
                f"classes={self.classes}, bands={self.bands}"
            )
        if self.output_stride not in RATES:
            raise ValueError(f"output_stride must be 8, 16 or 32, got {self.output_stride}")
        rates = self.atrous_rates or ()
        if len(rates) > _MAX_BRANCHES or not all(is_count(rate) for rate in rates):
            raise ValueError(
                f"atrous_rates must be at most {_MAX_BRANCHES} positive whole numbers, "
                f"got {rates}"
            )

    @property
    def head(self) -> str:
        """The part of the architecture's name before the encoder's."""
        return self.architecture.partition("_")[0]

    @property
    def encoder(self) -> str:
        """The part of the architecture's name after the head's."""
        return self.architecture.partition("_")[2]

    @property
    def rates(self) -> tuple[int, ...]:
        """The pyramid's rates, given or of the output stride."""
        given = self.atrous_rates
        return RATES[self.output_stride] if given is None else given

    @property
    def choices(self) -> Variant:
        """The variant, given or the architecture's own."""
        return self.variant or default_variant(self.architecture)


def architectures() -> list[str]:
    """Names that ``deeplab.build`` knows, sorted."""
    return sorted([*(f"{head}_{name}" for head in HEADS for name in ENCODERS), LINEAR])


def check_architecture(name: str) -> None:
    """Raise a ValueError for a name that ``deeplab.build`` does not know."""
    if name not in architectures():
        raise ValueError(f"model must be one of {', '.join(architectures())}, got {name!r}")


def default_variant(architecture: str) -> Variant:
    """The variant of an architecture when none is asked for.

    Small and published choices: separable convolutions for MobileNet and
    Xception as in arXiv:1802.02611, torchvision's rates for ResNet, the authors'
    own batch normalisation and low-level map for Xception.

    Raises:
        ValueError: The name is unknown.
    """
    check_architecture(architecture)
    encoder = architecture.partition("_")[2]
    light = Variant(separable=True, decoder_separable=True)
    if encoder.startswith("xception"):
        norm = Norm(eps=1e-3, momentum=3e-4)
        return dataclasses.replace(
            light,
            dilation="tf",
            low_level="unit",
            backbone_norm=norm,
            head_norm=Norm(momentum=3e-4),
        )
    if encoder == "mobilenet_v3_large":
        norm = Norm(eps=1e-3, momentum=1e-2)
        return dataclasses.replace(light, dilation="all", backbone_norm=norm)
    return light if encoder == "mobilenet_v2" else Variant()


def is_count(value: object) -> bool:
    """Whether a value is a whole number of at least 1, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value <= 1
