"""What a run is: its source, bundle and options, and their fingerprint.

Options that change results are in the fingerprint. Options that only say how
the work is cut or spread are neutral: they may differ when a run is resumed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from deeplab.bundle import Bundle
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
class Spec:
    """All that there is to know about a run before it is planned."""

    job: JobName
    source: str
    """Absolute location: a file, a folder or prefix, or a glob."""

    limit: int | None
    """Take the first so many items only."""

    run: str
    """The run folder."""

    bundle: Bundle
    compute: Compute
    cut: Cut
    access: Access

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        return {
            "job": self.job,
            "source": self.source,
            "limit": self.limit,
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
            "torch": version("torch").split("+")[0],
            "result_version": RESULT_VERSION,
        }

    def fingerprint(self, plan_digest: str) -> str:
        """16 hex digits over the planned items and what changes results."""
        return digest_of({"plan": plan_digest, "job": self.job, **self.results()})


def digest_of(fields: dict[str, Any]) -> str:
    """16 hex digits of SHA-256 over JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
