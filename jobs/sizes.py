"""At what size the network sees an image, and of what size its mask is.

An image is made smaller or larger before the network sees it, so that its long or
its short side has as many px as were asked for. The other side keeps the aspect,
rounded to the nearest whole px, a half up, and has at least one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

MaskSize = Literal["image", "model"]
MASK_SIZES: Final[tuple[MaskSize, ...]] = get_args(MaskSize)

KEEP: Final = "none"
"""Images are seen as they are."""

MAX_SIDE: Final = 16_384
RESIZES: Final = f"long=PX, short=PX or none, and PX 1 to {MAX_SIDE}"
_RESIZE: Final = re.compile(r"(long|short)=([1-9]\d{0,4})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What becomes of the size of images. All of it changes results."""

    resize: str = KEEP
    """``long=PX``, ``short=PX`` or ``none``."""

    mask_size: MaskSize = "image"
    """Whether masks of resized images have the image's own size, or the one that the
    network saw."""

    def __post_init__(self) -> None:
        """Check both."""
        try:
            parse_resize(self.resize)
        except ValueError as error:
            raise InputError(str(error)) from error
        if self.mask_size not in MASK_SIZES:
            raise InputError(f"mask_size must be image or model, got {self.mask_size!r}")

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Sizes:
        """Of fields as JSON holds them; others are passed over."""
        return cls(**{name: fields[name] for name in cls.__slots__ if name in fields})


def parse_resize(text: str) -> str:
    """The same text, if it says how to resize.

    Raises:
        ValueError: It does not.
    """
    match = _RESIZE.fullmatch(text)
    if text != KEEP and (match is None or int(match[2]) > MAX_SIDE):
        raise ValueError(f"resize must be {RESIZES}, got {text!r}")
    return text


def resized_size(resize: str, height: int, width: int) -> tuple[int, int]:
    """Rows and columns that the network sees of an image of ``height`` by ``width``."""
    match = _RESIZE.fullmatch(resize)
    if match is None:
        return height, width
    wanted, of = int(match[2]), (max if match[1] == "long" else min)(height, width)
    # Whole numbers: a float would round some halves down.
    first, second = (
        max(1, (2 * side * wanted + of) // (2 * of)) for side in (height, width)
    )
    return first, second
