"""What a check of a run found: one line a difference, of a stable kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Final

KINDS: Final = {
    "missing": "an object that is named is not there",
    "replaced": "it has other bytes than were written",
    "truncated": "it has fewer bytes than were written",
    "extra": "nothing names the object, e.g. one of an attempt that came too late",
    "unreadable": "it cannot be read, or is no file of its kind",
    "missing_record": "a planned shard or a raster has no record in the ledger",
    "extra_record": "a record of something that was not planned",
    "wrong_record": "a record contradicts the plan, or a copy of itself",
    "wrong_count": "items or pixels do not add up",
    "wrong_plan": "the plan is not the one that job.json describes",
    "wrong_manifest": "the manifest does not name exactly the outputs",
    "not_finished": "there is no _SUCCESS, or views of before it: go on with the run",
}
"""Why a run is not sound, or not yet; the names are stable."""

NOT_FINISHED: Final = "not_finished"
_MOST_KEPT: Final = 1000

Tell = Callable[[str, str, object, object], None]
"""Is told of a difference: its kind, the object, what was expected, what was got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that is not as it should be."""

    kind: str
    """One of ``KINDS``."""

    object: str
    """Location below the run folder."""

    expected: str
    got: str

    def __str__(self) -> str:
        """Show it in one line."""
        text = f"{self.object}: expected {self.expected}, got {self.got}"
        return f"{self.kind}  {' '.join(text.split())}"


@dataclass(slots=True, kw_only=True)
class Report:
    """All that a check found; of a size that does not grow with the run."""

    run: str
    job: str
    deep: bool
    counts: Counter[str] = field(default_factory=Counter)
    """Differences by kind."""

    first: list[Difference] = field(default_factory=list)
    """The first thousand of them."""

    retries: int = 0
    planned: int = 0
    """Shards of all plans."""

    recorded: int = 0
    """Shards that have a record."""

    objects: int = 0
    """Objects that records name and that were looked at."""

    read: int = 0
    """Objects that were read in full."""

    size: int = 0
    """Bytes of the objects that were looked at."""

    leftovers: int = 0
    """Temporary files of processes that were killed: no difference, but no use."""

    def tell(self, kind: str, name: str, expected: object, got: object) -> None:
        """Take note of a difference."""
        self.counts[kind] += 1
        if len(self.first) < _MOST_KEPT:
            self.first.append(
                Difference(kind=kind, object=name, expected=str(expected), got=str(got))
            )

    @property
    def differences(self) -> int:
        """How many there are; work that is left to do is none."""
        return self.counts.total() - self.counts[NOT_FINISHED]

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.counts[NOT_FINISHED]

    def to_json(self) -> dict[str, Any]:
        """What ``atrous verify --json`` prints."""
        return {
            "run": self.run,
            "job": self.job,
            "deep": self.deep,
            "sound": not self.differences,
            "finished": self.finished,
            "retries": self.retries,
            "shards": {"planned": self.planned, "recorded": self.recorded},
            "objects": {"named": self.objects, "read": self.read, "bytes": self.size},
            "leftovers": self.leftovers,
            "counts": dict(sorted(self.counts.items())),
            "differences": [asdict(one) for one in self.first],
        }


def describe_report(report: Report, *, most: int = 100) -> str:
    """The same for people, ending with the next command to type."""
    how = "read in full" if report.deep else "held against size and ETag"
    size = f"{report.size / 1e6:.2f} MB"
    lines = [
        f"{report.job} run {report.run}",
        f"  shards   {report.recorded} of {report.planned} in the ledger",
        f"  objects  {report.objects} of {size}, {how}",
    ]
    if report.retries:
        lines.insert(1, f"  retries  {report.retries}")
    lines += [str(one) for one in report.first[:most]]
    more = report.counts.total() - min(most, len(report.first))
    if more:
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(report.counts.items()))
        lines.append(f"and {more} more ({kinds}); see --json")
    return "\n".join([*lines, *_advise(report)])


def _advise(report: Report) -> list[str]:
    """What it comes to, and what to type next."""
    run, found = report.run, report.differences
    if not found and not report.finished:
        return [f"sound so far, but not finished; see how far it is: atrous status {run}"]
    if found:
        lines = [f"{found} difference{'' if found == 1 else 's'}"]
        if report.counts["extra"]:
            lines.append(f"see what nothing names: atrous clean {run}")
        elif report.deep:
            lines.append(f"see what the run says of itself: atrous status {run}")
        else:
            lines.append(f"read every byte: atrous verify {run} --deep")
        return lines
    if report.leftovers:
        return [
            f"sound; {report.leftovers} objects are of no use any more: atrous clean {run}",
        ]
    if report.deep:
        return [f"sound, every byte was read; see what it holds: atrous status {run}"]
    return [f"sound; read every byte too: atrous verify {run} --deep"]
