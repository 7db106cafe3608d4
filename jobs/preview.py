"""Pictures for people: an image beside its mask laid over it, with a legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo

OPACITY: Final = 0.6
_LEGEND: Final = 40
_SWATCH: Final = 18
_GAP: Final = 8


def save_overlay(
    path: Path,
    pixels: NDArray[np.uint8],
    mask: NDArray[np.uint8],
    classes: Sequence[ClassInfo],
) -> None:
    """Write a PNG: the image on the left, the same under its mask on the right.

    Args:
        path: Local file to write.
        pixels: RGB, uint8 (3, H, W).
        mask: Class ids, uint8 (H, W); ids that are no class stay uncoloured.
        classes: Names and colours by class id.
    """
    image = pixels.transpose(1, 2, 0)
    height, width = mask.shape
    page = Image.new("RGB", (2 * width + _GAP, height + _LEGEND), "white")
    page.paste(Image.fromarray(image), (0, 0))
    page.paste(Image.fromarray(overlay(image, mask, classes)), (width + _GAP, 0))
    _draw_legend(page, height + (_LEGEND - _SWATCH) // 2, classes)
    page.save(path)


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.uint8], classes: Sequence[ClassInfo]
) -> NDArray[np.uint8]:
    """Lay a mask's colours over an image, uint8 (H, W, 3)."""
    palette = np.zeros((256, 3), dtype=np.float32)
    palette[: len(classes)] = [info.color for info in classes]
    opacity = np.zeros((256, 1), dtype=np.float32)
    opacity[: len(classes)] = OPACITY
    mixed = image * (1 - opacity[mask]) + palette[mask] * opacity[mask]
    colored: NDArray[np.uint8] = mixed.round().astype(np.uint8)
    return colored


def _draw_legend(page: Image.Image, top: int, classes: Sequence[ClassInfo]) -> None:
    draw = ImageDraw.Draw(page)
    font = ImageFont.load_default(_SWATCH - 2)
    left = float(_GAP)
    for info in classes:
        box = (left, top, left + _SWATCH, top + _SWATCH)
        draw.rectangle(box, fill=info.color, outline="black")
        left += _SWATCH + _GAP
        draw.text((left, top - 1), info.name, fill="black", font=font)
        left += draw.textlength(info.name, font=font) + 3 * _GAP
