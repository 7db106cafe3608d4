"""What a shard took: images decoded, tiles seen, and how long the two lasted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from deeplab.seen import Seen
from jobs.ledger import DeadLetter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobs.job import Decoded, Image
    from jobs.ledger import Record


class Meter:
    """Counts while a shard is done. For one thread."""

    def __init__(self) -> None:
        """Start at zero."""
        self.seen = Seen()
        self._decoded: list[Decoded] = []

    def count_all(self, images: Iterable[Image | DeadLetter]) -> None:
        """Count images, but those of which nobody knows when they were decoded."""
        found = (one.decoded for one in images if not isinstance(one, DeadLetter))
        self._decoded += [one for one in found if one is not None]

    def complete(self, record: Record) -> Record:
        """Write into a record what was counted."""
        seconds = {**record.seconds, "network": round(self.seen.seconds, 3)}
        if self._decoded:
            seconds["decode"] = round(_union(self._decoded), 3)
        return replace(
            record,
            seconds=seconds,
            tiles=self.seen.tiles,
            pixels_seen=self.seen.pixels,
            pixels_padding=self.seen.padding,
            images_decoded=len(self._decoded),
            bytes_decoded=sum(one.size for one in self._decoded),
        )


def _union(spans: list[Decoded]) -> float:
    """Seconds in which at least one image was being decoded."""
    total = end = 0.0
    for one in sorted(spans, key=lambda span: span.start):
        total += max(0.0, one.stop - max(end, one.start))
        end = max(end, one.stop)
    return total
