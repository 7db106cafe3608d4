"""When a run gives up."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal, get_args

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.ledger import DeadLetter

Stage = Literal["plan", "read", "segment"]
Reaction = Literal["dead-letter", "stop"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
REACTIONS: Final[tuple[Reaction, ...]] = get_args(Reaction)

_LOOK: Final = "look at dead_letter.parquet in the run folder, then"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """When a run gives up. Neutral: what is done by then stays as it is."""

    on_error: tuple[tuple[Stage, Reaction], ...] = ()
    """What an item's error does, by stage; a stage that is not named goes on."""

    max_dead_letters: int | None = None
    """More of them stop the run."""

    max_dead_percent: float | None = None
    """A larger share of the planned items stops the run."""

    patience_s: float = 900.0
    """How long the store or the cluster may be down before the run stops."""

    def __post_init__(self) -> None:
        """Check the limits."""
        letters, percent = self.max_dead_letters, self.max_dead_percent
        if letters is not None and letters < 0:
            raise InputError(f"max_dead_letters must be at least 0, got {letters}")
        if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004
            raise InputError(f"max_dead_letters must be from 0% to 100%, got {percent:g}%")
        if not self.patience_s >= 0:
            raise InputError(f"patience must be at least 0 s, got {self.patience_s:g}")

    def verdict(
        self, letters: Mapping[str, int], newest: DeadLetter | None, items: int
    ) -> str | None:
        """Why the run must stop now; None where it may go on.

        Args:
            letters: Dead letters so far, by stage.
            newest: The one that came last, if it is known.
            items: Planned items.
        """
        return self._stopped_by_stage(letters, newest) or self._over_budget(letters, items)

    def _stopped_by_stage(
        self, letters: Mapping[str, int], newest: DeadLetter | None
    ) -> str | None:
        stopping = [stage for stage, reaction in self.on_error if reaction == "stop"]
        stage = next((stage for stage in stopping if letters.get(stage)), None)
        if stage is None:
            return None
        found = f"{_count(letters[stage])} at stage {stage}"
        if newest is not None and newest.stage == stage:
            found = (
                f"{newest.uri} failed at stage {stage} ({newest.code}: {newest.message})"
            )
        return (
            f"{found}, where on_error says to stop; {_LOOK} run atrous retry, or give "
            f"-c on_error={stage}=dead-letter"
        )

    def _over_budget(self, letters: Mapping[str, int], items: int) -> str | None:
        total, percent = sum(letters.values()), self.max_dead_percent
        if self.max_dead_letters is not None and total > self.max_dead_letters:
            most = f"{self.max_dead_letters}"
        # In decimals: 0.57 * 10000 is less than 5700 in binary.
        elif percent is not None and total * 100 > Decimal(str(percent)) * items:
            most = f"{percent:g}% of {items} items"
        else:
            return None
        return (
            f"{_count(total)} so far, max_dead_letters allows {most}; {_LOOK} raise "
            "max_dead_letters, or run atrous retry"
        )


def _count(letters: int) -> str:
    return f"{letters} dead letter{'' if letters == 1 else 's'}"
