"""How much the network saw, and how much of that was nobody's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Seen:
    """Running sums over calls of a segmenter."""

    tiles: int = 0
    """Tiles that held data, each counted once however often it is viewed."""

    pixels: int = 0
    """Of all slots of all batches, in px of tiles."""

    padding: int = 0
    """Those of them that lie past an image's edge or in an empty slot."""

    seconds: float = 0.0
    """From when the device began until all was there."""

    def add(self, other: Seen) -> None:
        """Add what another one counted."""
        self.tiles += other.tiles
        self.pixels += other.pixels
        self.padding += other.padding
        self.seconds += other.seconds
