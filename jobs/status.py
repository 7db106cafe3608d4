"""How far a run is, from its folder alone; no cluster is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.folder import require_job
from jobs.ledger import Ledger
from jobs.plan import Totals
from jobs.storage import join
from jobs.tally import Tally

if TYPE_CHECKING:
    from jobs.storage import Store


def read_status(store: Store, run: str) -> dict[str, Any]:
    """Add up a run's ledger, also while it is running.

    Returns:
        The same object that a finished run's ``summary.json`` holds.

    Raises:
        InputError: The folder holds no run.
        RunError: The folder is of another version.
    """
    held = require_job(store, run)
    tally = Tally()
    for record in Ledger(store, run).read():
        tally.add(record)
    totals, job = Totals(**held["plan"]), held["identity"]["job"]
    written = len(store.find(join(run, "rasters"))) if job == "map" else 0
    whole = job != "map" or written == totals.items - tally.refused
    return {"run": run, "job": job, **tally.summary(totals, whole=whole)}


def describe_status(status: dict[str, Any]) -> str:
    """The same for people, ending with the next command to type."""
    shards, pixels = status["shards"], status["pixels"]
    spread = ", ".join(f"{count / 1e6:.2f} M {name}" for name, count in pixels.items())
    lines = [
        f"{status['job']} run {status['run']}",
        f"  shards        {shards['done']} of {shards['planned']} done",
        f"  pixels        {spread}",
        f"  dead letters  {status['dead_letters']}",
        f"  written       {status['bytes_written'] / 1e6:.2f} MB",
    ]
    if not status["finished"]:
        lines.append("not finished; run the same command again to go on")
    elif status["dead_letters"]:
        lines.append(f"finished; see why in {status['run']}/dead_letter.parquet")
    else:
        lines.append("finished")
    return "\n".join(lines)
