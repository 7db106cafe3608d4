"""How far a run is, from its folder alone; no cluster is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.folder import is_finished, list_folders, require_job
from jobs.ledger import Ledger
from jobs.letters import open_letters, redone
from jobs.plan import Totals
from jobs.rates import describe_rates
from jobs.tally import Tally

if TYPE_CHECKING:
    from jobs.storage import Store


def read_status(store: Store, run: str) -> dict[str, Any]:
    """Add up a run's ledger and those of its retries, also while it is running.

    Returns:
        The same object that ``summary.json`` holds.

    Raises:
        InputError: The folder holds no run.
        RunError: The folder is of another version.
    """
    held = require_job(store, run)
    folders = list_folders(store, run)
    tally = Tally()
    for folder in folders:
        for record in Ledger(store, folder).read():
            tally.add(record)
    if len(folders) > 1:
        tally.recount(open_letters(store, run))
        for record, letters in redone(store, run):
            tally.forget(record, letters)
    finished = all(is_finished(store, folder) for folder in folders)
    summary = tally.summary(Totals(**held["plan"]), finished=finished)
    retried = sum(require_job(store, folder)["plan"]["shards"] for folder in folders[1:])
    summary["shards"]["planned"] += retried
    return {
        "run": run,
        "job": held["identity"]["job"],
        **summary,
        "retries": len(folders) - 1,
    }


def describe_status(status: dict[str, Any]) -> str:
    """The same for people, ending with the next command to type."""
    shards, pixels, run = status["shards"], status["pixels"], status["run"]
    spread = ", ".join(f"{count / 1e6:.2f} M {name}" for name, count in pixels.items())
    codes = ", ".join(f"{n} {code}" for code, n in status["dead_letter_codes"].items())
    lines = [
        f"{status['job']} run {run}",
        f"  shards        {shards['done']} of {shards['planned']} done",
        f"  pixels        {spread}",
        f"  dead letters  {status['dead_letters']}" + (f" ({codes})" if codes else ""),
        f"  written       {status['bytes_written'] / 1e6:.2f} MB",
    ]
    lines += [f"  {line}" for line in describe_rates(status)]
    if status["retries"]:
        lines.insert(2, f"  retries       {status['retries']}")
    if not status["finished"]:
        lines.append("not finished; run the same command again to go on")
    elif status["dead_letters"]:
        lines.append(f"finished; see why in {run}/dead_letter.parquet")
        lines.append(f"try them again: atrous retry {run}")
    else:
        lines.append(f"finished; prove it: atrous verify {run}")
    return "\n".join(lines)
