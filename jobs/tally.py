"""Add up ledger records: what a run has done so far."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from jobs.rates import find_padding, find_rates

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jobs.ledger import DeadLetter, Record
    from jobs.plan import Totals

_MEASURED: Final = (
    "tiles",
    "pixels_seen",
    "pixels_padding",
    "images_decoded",
    "bytes_decoded",
)


class Tally:
    """Running sums over records; of a size that does not grow with them."""

    def __init__(self) -> None:
        """Start at zero."""
        self.shards = 0
        self.counts: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.stages: Counter[str] = Counter()
        """Dead letters by stage."""

        self.codes: Counter[str] = Counter()
        """Dead letters by code."""

        self.newest: DeadLetter | None = None

    def add(self, record: Record) -> None:
        """Count one shard."""
        self.shards += 1
        self.counts["items_done"] += record.items_done
        self.counts["items_measured"] += record.items_done if record.tiles else 0
        for name in _MEASURED:
            self.counts[name] += getattr(record, name)
        self.counts["pixels_done"] += record.pixels_done
        self.counts["pixels_nodata"] += record.pixels_nodata
        self.counts["pixels_dead"] += record.pixels_dead
        self.counts["bytes_written"] += sum(output.size for output in record.outputs)
        self.seconds.update(record.seconds)
        for letter in record.dead_letters:
            self.add_letter(letter)

    def forget(self, record: Record, settled: Iterable[DeadLetter]) -> None:
        """Count no pixels of what was done again since a record was added.

        Args:
            record: It.
            settled: Its dead letters that say nothing any more. A letter of a mosaic is
                of a scene in its block, and the block was done again as a whole.
        """
        redone = sum(map(_pixels, settled))
        if not redone:
            return
        if sum(map(_pixels, record.dead_letters)) == record.pixels_dead:
            self.counts["pixels_dead"] -= redone
            return
        self.counts["pixels_done"] -= record.pixels_done
        self.counts["pixels_nodata"] -= record.pixels_nodata
        self.counts["pixels_dead"] -= record.pixels_dead

    def add_letter(self, letter: DeadLetter) -> None:
        """Count one dead letter."""
        self.stages[letter.stage] += 1
        self.codes[letter.code] += 1
        self.newest = letter

    def recount(self, letters: Iterable[DeadLetter]) -> None:
        """Count these dead letters in place of those so far."""
        self.stages.clear()
        self.codes.clear()
        for letter in letters:
            self.add_letter(letter)

    @property
    def dead(self) -> int:
        """Dead letters so far."""
        return self.stages.total()

    @property
    def pixels(self) -> int:
        """Pixels accounted for: done, nodata or dead."""
        return sum(self.counts[f"pixels_{name}"] for name in ("done", "nodata", "dead"))

    def summary(self, totals: Totals, *, finished: bool) -> dict[str, Any]:
        """What ``summary.json`` holds and ``status --json`` prints.

        Args:
            totals: Of the plan.
            finished: Whether all that was planned is done and proven.
        """
        return {
            "finished": finished,
            "items": totals.items,
            "shards": {"planned": totals.shards, "done": self.shards},
            "bytes_planned": totals.size,
            "read_amplification": totals.read_amplification,
            "pixels": {
                name: self.counts[f"pixels_{name}"] for name in ("done", "nodata", "dead")
            },
            "dead_letters": self.dead,
            "dead_letter_codes": dict(sorted(self.codes.items())),
            "bytes_written": self.counts["bytes_written"],
            "tiles": self.counts["tiles"],
            "padding": find_padding(self.counts),
            "rates": find_rates(self.counts, self.seconds),
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
        }


def _pixels(letter: DeadLetter) -> int:
    return (letter.height or 0) * (letter.width or 0)
