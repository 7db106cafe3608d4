"""MobileNetV2 of Hugging Face's transformers, ``MobileNetV2ForSemanticSegmentation``.

The authors' network without decoder and without atrous branches. Its own logits stay
at the output stride; its processor and its loss enlarge them without aligned corners,
where the authors align them: ``overrides={"align_corners": True}`` does as they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.keys import length
from deeplab.foreign.origin import Origin, unit
from deeplab.foreign.tensorflow import check_width
from deeplab.variant import Network, Norm, Variant

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from deeplab.foreign.origin import State

_ENCODER: Final = "mobilenet_v2."
_FIRST: Final = "conv_stem.first_conv.convolution.weight"
_CLASSIFIER: Final = "segmentation_head.classifier.convolution.weight"


def _pairs() -> Iterator[tuple[str, str, str]]:
    """Our convolution, our normalisation, their layer."""
    stem = f"{_ENCODER}conv_stem"
    yield "backbone.features.0.0", "backbone.features.0.1", f"{stem}.first_conv"
    yield "backbone.features.1.conv.0.0", "backbone.features.1.conv.0.1", f"{stem}.conv_3x3"
    yield "backbone.features.1.conv.1", "backbone.features.1.conv.2", f"{stem}.reduce_1x1"
    for i in range(16):
        ours, theirs = f"backbone.features.{i + 2}.conv", f"{_ENCODER}layer.{i}"
        yield f"{ours}.0.0", f"{ours}.0.1", f"{theirs}.expand_1x1"
        yield f"{ours}.1.0", f"{ours}.1.1", f"{theirs}.conv_3x3"
        yield f"{ours}.2", f"{ours}.3", f"{theirs}.reduce_1x1"
    for ours, theirs in (
        ("aspp.image_pool", "conv_pool"),
        ("aspp.branches.0", "conv_aspp"),
        ("aspp.project", "conv_projection"),
    ):
        yield f"{ours}.conv", f"{ours}.bn", f"segmentation_head.{theirs}"
    yield "classifier", "", "segmentation_head.classifier"


_LAYERS: Final = {
    ours: f"{theirs}.{kind}"
    for conv, norm, theirs in _pairs()
    for ours, kind in ((conv, "convolution"), (norm, "normalization"))
}


def _recognises(keys: Collection[str]) -> bool:
    return f"{_ENCODER}{_FIRST}" in keys or _FIRST in keys


def _normalise(state: State) -> State:
    """Name a bare encoder as the part of a network that it is."""
    if _FIRST not in state:
        return state
    return {f"{_ENCODER}{key}": value for key, value in state.items()}


def _describe(state: State) -> Network:
    first = f"{_ENCODER}{_FIRST}"
    check_width(length(state, first))
    has_head = any(key.startswith("segmentation_head.") for key in state)
    return Network(
        architecture="deeplabv3_mobilenet_v2",
        classes=length(state, _CLASSIFIER) if has_head else 1,
        bands=length(state, first, 1),
        output_stride=8,
        atrous_rates=(),
        variant=Variant(
            dilation="tf",
            padding="same",
            # Its own momentum is TensorFlow's decay, left as it was: not torch's.
            backbone_norm=Norm(eps=1e-3, momentum=3e-3),
            head_norm=Norm(eps=1e-5, momentum=3e-4),
            dropout=0.8,
        ),
    )


def _rename(key: str, network: Network) -> str | None:  # noqa: ARG001
    layer, _, tensor = key.rpartition(".")
    return f"{_LAYERS[layer]}.{tensor}" if layer in _LAYERS else None


def _ignored(key: str) -> str | None:
    if key.startswith(f"{_ENCODER}conv_1x1."):
        return "the last convolution, which is for whole images"
    return "ImageNet's classifier" if key.startswith("classifier.") else None


HF: Final = Origin(
    name="hf",
    recognises=_recognises,
    normalise=_normalise,
    describe=_describe,
    rename=_rename,
    ignored=_ignored,
    preprocessing=unit,
)
