"""Detectron2's DeepLab project: V3 and V3+ on its "R103", a ResNet-101.

That is the stem of three convolutions, with every unit of ``res5`` at the new rate
times 1, 2, 4. The image-level view has a bias and no normalisation. In training it
is the mean of a crop; at inference the mean of each window of a crop's size, which
the published configurations cut as 512 x 1024 pixels. Detectron2 asks for images
whose sides its strides divide, and there alone its logits and ours agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from deeplab.foreign.keys import Order, length, refuse, renamer, resnet
from deeplab.foreign.origin import IMAGENET, MismatchError, Origin
from deeplab.variant import Network, Variant

if TYPE_CHECKING:
    from collections.abc import Collection

    from deeplab.foreign.origin import State

_ORDER: Final = Order(pool_last=True, low_first=True)
_PLUS: Final = "sem_seg_head.decoder.res5.project_conv"
_V3: Final = "sem_seg_head.aspp"
_STEM: Final = tuple(f"backbone.stem.conv{index}.weight" for index in (1, 2, 3))
_WINDOW: Final = (512 // 16, 1024 // 16)
_REFUSED: Final = {
    f"{pyramid}.convs.1.depthwise.": "depthwise separable convolutions, of which its "
    "decoder has one of 5x5; that is not built here"
    for pyramid in (_PLUS, _V3)
}
_PIXELS: Final = ("pixel_mean", "pixel_std")


def _recognises(keys: Collection[str]) -> bool:
    return any(f"{pyramid}.convs.4.1.weight" in keys for pyramid in (_PLUS, _V3))


def _describe(state: State) -> Network:
    refuse(state, "dense convolutions", _REFUSED)
    _check_pixels(state)
    is_plus = f"{_PLUS}.project.weight" in state
    return Network(
        architecture=(
            f"{'deeplabv3plus' if is_plus else 'deeplabv3'}_"
            f"{resnet(state, 'backbone.res4.')}"
        ),
        classes=length(state, "sem_seg_head.predictor.weight"),
        bands=length(state, _STEM[0], 1),
        variant=Variant(
            stem=tuple(length(state, key) for key in _STEM),
            dilation="all",
            multi_grid=(1, 2, 4),
            image_pool="valid",
            pool_window=_WINDOW,
            pool_norm="none",
        ),
    )


def _check_pixels(state: State) -> None:
    """Refuse a network that saw other colours: detectron2's default is BGR."""
    wanted = (IMAGENET.mean, IMAGENET.std)
    for key, values in zip(_PIXELS, wanted, strict=True):
        expected = torch.tensor(values) * 255
        got = state[key].detach().float().flatten() if key in state else expected
        if got.shape != expected.shape or not torch.allclose(got, expected, atol=0.01):
            raise MismatchError(
                f"{key} must be ImageNet's, red first, {_listed(expected)}, "
                f"got {_listed(got)}; take pixel_mean and pixel_std out of the file and "
                "give the bundle the normalisation and the bands' order of its training"
            )


def _listed(values: torch.Tensor) -> str:
    return ", ".join(f"{value:g}" for value in values.tolist())


def _ignored(key: str) -> str | None:
    return "how images are normalised, as ImageNet's" if key in _PIXELS else None


def _rename(key: str, network: Network) -> str | None:
    return _HEADS[network.head](key, network)


def _normed(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """A convolution that owns its normalisation."""
    return ((rf"{ours}\.conv", theirs), (rf"{ours}\.bn", f"{theirs}.norm"))


_ENCODER: Final = (
    *(
        (rf"backbone\.stem\.{2 * index + offset}", f"backbone.stem.conv{index + 1}{tail}")
        for index in range(3)
        for offset, tail in enumerate(("", ".norm"))
    ),
    *(
        (rf"backbone\.layer{layer}\.(\d+)\.{ours}", rf"backbone.res{layer + 1}.\1.{theirs}")
        for layer in range(1, 5)
        for ours, theirs in (
            (r"(conv\d)", r"\2"),
            (r"bn(\d)", r"conv\2.norm"),
            (r"downsample\.0", "shortcut"),
            (r"downsample\.1", "shortcut.norm"),
        )
    ),
    (r"classifier", "sem_seg_head.predictor"),
)


def _pyramid(prefix: str) -> tuple[tuple[str, str], ...]:
    return (
        *_normed(r"aspp\.branches\.(\d)", rf"{prefix}.convs.\1"),
        (r"aspp\.image_pool\.conv", f"{prefix}.convs.4.1"),
        *_normed(r"aspp\.project", f"{prefix}.project"),
    )


_HEADS: Final = {
    "deeplabv3": renamer(*_ENCODER, *_pyramid(_V3)),
    "deeplabv3plus": renamer(
        *_ENCODER,
        *_pyramid(_PLUS),
        *_normed(r"decoder\.low_level", "sem_seg_head.decoder.res2.project_conv"),
        *_normed(r"decoder\.fuse\.(\d)", r"sem_seg_head.decoder.res2.fuse_conv.\1"),
    ),
}

DETECTRON2: Final = Origin(
    name="detectron2",
    recognises=_recognises,
    describe=_describe,
    rename=_rename,
    to_ours=_ORDER.to_ours,
    to_theirs=_ORDER.to_theirs,
    ignored=_ignored,
)
