"""In how many forms the network sees each tile: scales and mirror images.

This module needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST: Final = 8
LEAST_SCALE: Final = 0.1
MOST_SCALE: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Forms of a tile, whose probabilities are averaged."""

    scales: tuple[float, ...] = (1.0,)
    """Factors of a tile's rows and columns."""

    flip: bool = False
    """Whether each scale is seen mirrored left to right as well."""

    def __post_init__(self) -> None:
        """Check the scales."""
        scales = self.scales
        in_range = all(LEAST_SCALE <= scale <= MOST_SCALE for scale in scales)
        if not (1 <= len(set(scales)) == len(scales) <= MOST and in_range):
            shown = ",".join(f"{scale:g}" for scale in scales) or "none"
            raise ValueError(
                f"scales must be 1 to {MOST} different numbers of {LEAST_SCALE:g} to "
                f"{MOST_SCALE:g}, got {shown}"
            )

    @property
    def is_plain(self) -> bool:
        """Whether a tile is seen once, as it is."""
        return self.scales == (1.0,) and not self.flip


PLAIN: Final = Views()
"""Each tile as it is."""
