"""What a run is: its source, bundle and options, and their fingerprint.

Options that change results are in the fingerprint. Options that only say how
the work is cut or spread, or when to give up, are neutral: they may differ when
a run is resumed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeplab.bundle import Bundle
    from jobs.ledger import DeadLetter
    from jobs.storage import Access

FORMAT_VERSION: Final = 1
"""Of the run folder."""

RESULT_VERSION: Final = 1
"""Raised whenever a change of the program changes its masks."""

BATCH: Final = {"cpu": 1, "cuda": 16}
"""Tiles in one forward pass; on a CPU one is fastest."""

JobName = Literal["label", "map"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
Stage = Literal["plan", "read", "segment"]
Reaction = Literal["dead-letter", "stop"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)
REACTIONS: Final[tuple[Reaction, ...]] = get_args(Reaction)

_LOOK: Final = "look at dead_letter.parquet in the run folder, then"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How a replica computes. All of it changes results, in the last bits at least."""

    device: Device = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    """Threads of one replica on a CPU."""

    @property
    def batch(self) -> int:
        """Tiles in one forward pass."""
        return BATCH[self.device]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How the work is cut into shards. None of it changes results."""

    shard_items: int = 64
    """Most images in a shard."""

    shard_bytes: int = 256 * 2**20
    """Most bytes of image files in a shard."""

    block: int = 4096
    """Side of a raster's blocks, in px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What decoding one image may take; what needs more becomes a dead letter.

    Neutral: they change no mask, only whether there is one, and a retry with other
    limits does what these refused.
    """

    seconds: float = 10.0
    max_pixels: int = 100_000_000
    """Width times height."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if not self.seconds > 0:
            raise InputError(f"decode_timeout must be more than 0 s, got {self.seconds:g}")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels must be at least 1, got {self.max_pixels}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What to take of each row of a source that is an index."""

    column: str | None = None
    """The column of locations; None for the one with a usual name."""

    asset: str | None = None
    """The asset of a STAC Item; None for the one that holds data."""


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
            raise InputError(f"--max-dead-letters must be at least 0, got {letters}")
        if percent is not None and not 0 <= percent <= 100:  # noqa: PLR2004
            raise InputError(
                f"--max-dead-letters must be from 0% to 100%, got {percent:g}%"
            )
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
            f"{found}, where --on-error says to stop; {_LOOK} run atrous retry, or give "
            f"--on-error {stage}=dead-letter"
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
            f"{_count(total)} so far, --max-dead-letters allows {most}; {_LOOK} raise "
            "--max-dead-letters, or run atrous retry"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that there is to know about a run before it is planned."""

    job: JobName
    source: str
    """Absolute location: a file, a folder or prefix, a glob, or an index."""

    limit: int | None
    """Take the first so many items only."""

    run: str
    """The run folder."""

    bundle: Bundle
    compute: Compute
    cut: Cut
    access: Access
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    pick: Pick = field(default_factory=Pick)
    area: str = ""
    """GeoJSON of the area that a map is limited to; empty for all."""

    bundle_location: str = ""
    """Where the bundle lies, or ``demo``, so that a retry can load it again."""

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        return {
            "job": self.job,
            "source": self.source,
            "limit": self.limit,
            "source_column": self.pick.column,
            "asset": self.pick.asset,
            **self.results(),
        }

    def results(self) -> dict[str, Any]:
        """The options that change results."""
        return {
            "bundle": self.bundle.digest,
            "tile": self.bundle.tile,
            "overlap": self.bundle.overlap,
            "batch": self.compute.batch,
            **asdict(self.compute),
            "area": _digest_of_text(self.area) if self.area else None,
            "torch": version("torch").split("+")[0],
            "result_version": RESULT_VERSION,
        }

    def fingerprint(self, plan_digest: str) -> str:
        """16 hex digits over the planned items and what changes results."""
        return digest_of({"plan": plan_digest, "job": self.job, **self.results()})


def write_area(geometry: dict[str, Any] | None) -> str:
    """An area as text, always the same for one geometry; empty for none."""
    if geometry is None:
        return ""
    return json.dumps(geometry, sort_keys=True, separators=(",", ":"))


def _count(letters: int) -> str:
    return f"{letters} dead letter{'' if letters == 1 else 's'}"


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(fields: dict[str, Any]) -> str:
    """16 hex digits of SHA-256 over JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
