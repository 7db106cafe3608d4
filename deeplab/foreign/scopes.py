"""The scopes of the authors' variables: where each of our layers stands in their graph.

tensorflow/models, ``research/deeplab`` names a variable by the scopes around it; Keras
ports and converters derive their names from these.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deeplab.variant import Network

    Pair = tuple[str, str]

ROOTS: Final = {
    "mobilenet_v2": "MobilenetV2",
    "resnet50": "resnet_v1_50",
    "resnet101": "resnet_v1_101",
    "xception41": "xception_41",
    "xception65": "xception_65",
    "xception71": "xception_71",
}
"""Outermost scope of each encoder that is both theirs and ours."""

NORM: Final = "/BatchNorm"
"""Scope of batch normalisation within that of its convolution."""

_FLOWS: Final = {"xception41": (3, 8), "xception65": (3, 16), "xception71": (5, 16)}
"""Blocks of the entry flow, units of the middle flow."""

_BRANCHES: Final = range(1, 9)
_MOST_BLOCKS: Final = 23


def scopes(network: Network) -> dict[str, str]:
    """Scope of each layer of a network, and of some that it has not.

    Args:
        network: One whose encoder is a key of ``ROOTS``.
    """
    choices = network.choices
    return _scopes(
        network.encoder,
        is_deep=bool(choices.stem),
        separable=choices.separable,
        decoder_separable=choices.decoder_separable,
    )


@functools.cache
def _scopes(
    encoder: str, *, is_deep: bool, separable: bool, decoder_separable: bool
) -> dict[str, str]:
    root = ROOTS[encoder]
    if encoder in _FLOWS:
        pairs = _xception(*_FLOWS[encoder])
    else:
        pairs = _mobilenet() if encoder == "mobilenet_v2" else _resnet(is_deep=is_deep)
    found = {f"backbone.{ours}": f"{root}/{theirs}" for ours, theirs in pairs}
    return (
        found
        | dict(_pyramid(_separable if separable else _dense))
        | dict(_decoder(is_separable=decoder_separable))
    )


def _pyramid(branch: Callable[[str, str], Iterator[Pair]]) -> Iterator[Pair]:
    yield from _dense("aspp.image_pool", "image_pooling")
    yield from _dense("aspp.branches.0", "aspp0")
    for i in _BRANCHES:
        yield from branch(f"aspp.branches.{i}", f"aspp{i}")
    yield from _dense("aspp.project", "concat_projection")
    yield "classifier", "logits/semantic"


def _decoder(*, is_separable: bool) -> Iterator[Pair]:
    yield from _dense("decoder.low_level", "decoder/feature_projection0")
    for i in range(2):
        ours, theirs = f"decoder.fuse.{i}", f"decoder/decoder_conv{i}"
        if is_separable:
            yield from _separable(ours, theirs)
        else:  # repeated within one scope
            yield from _dense(ours, f"decoder/decoder_conv0/decoder_conv0_{i + 1}")


def _xception(entry: int, middle: int) -> Iterator[Pair]:
    for i in range(2):
        yield from _dense(f"stem.{i}", f"entry_flow/conv1_{i + 1}")
    units = [
        *(f"entry_flow/block{i + 1}/unit_1" for i in range(entry)),
        *(f"middle_flow/block1/unit_{i + 1}" for i in range(middle)),
        *(f"exit_flow/block{i + 1}/unit_1" for i in range(2)),
    ]
    for index, unit in enumerate(units):
        ours, theirs = f"blocks.{index}", f"{unit}/xception_module"
        yield from _dense(f"{ours}.shortcut", f"{theirs}/shortcut")
        for i in range(3):
            yield from _separable(f"{ours}.convs.{i}", f"{theirs}/separable_conv{i + 1}")


def _resnet(*, is_deep: bool) -> Iterator[Pair]:
    stem = ("conv1_1", "conv1_2", "conv1_3") if is_deep else ("conv1",)
    for i, theirs in enumerate(stem):
        yield from _pair(f"stem.{2 * i}", f"stem.{2 * i + 1}", theirs)
    for layer in range(1, 5):
        for block in range(_MOST_BLOCKS):
            ours = f"layer{layer}.{block}"
            theirs = f"block{layer}/unit_{block + 1}/bottleneck_v1"
            for i in (1, 2, 3):
                yield from _pair(f"{ours}.conv{i}", f"{ours}.bn{i}", f"{theirs}/conv{i}")
            yield from _pair(
                f"{ours}.downsample.0", f"{ours}.downsample.1", f"{theirs}/shortcut"
            )


def _mobilenet() -> Iterator[Pair]:
    yield from _pair("features.0.0", "features.0.1", "Conv")
    for index in range(1, 18):
        ours = f"features.{index}.conv"
        theirs = "expanded_conv" if index == 1 else f"expanded_conv_{index - 1}"
        steps = ("depthwise",) if index == 1 else ("expand", "depthwise")
        for i, step in enumerate(steps):
            yield from _pair(f"{ours}.{i}.0", f"{ours}.{i}.1", f"{theirs}/{step}")
        last = len(steps)
        yield from _pair(f"{ours}.{last}", f"{ours}.{last + 1}", f"{theirs}/project")


def _dense(ours: str, theirs: str) -> Iterator[Pair]:
    return _pair(f"{ours}.conv", f"{ours}.bn", theirs)


def _separable(ours: str, theirs: str) -> Iterator[Pair]:
    yield from _pair(f"{ours}.depthwise", f"{ours}.depthwise_bn", f"{theirs}_depthwise")
    # Its normalisation is called as a dense convolution's.
    yield from _pair(f"{ours}.pointwise", f"{ours}.bn", f"{theirs}_pointwise")


def _pair(conv: str, norm: str, theirs: str) -> Iterator[Pair]:
    yield conv, theirs
    yield norm, theirs + NORM
