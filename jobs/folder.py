"""A run folder: planned once, recognised when it is met again.

``plan.parquet`` is written first and names the options it was made for;
``job.json`` follows. Both are created once, so two drivers that start together
agree on one plan, and what was planned is never listed again.
"""

from __future__ import annotations

import functools
import itertools
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.errors import InputError, RunError
from jobs.plan import Totals, measure_plan, read_about, read_plan, write_plan
from jobs.spec import FORMAT_VERSION, Cut, Spec, digest_of
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.shards import Shard
    from jobs.storage import Store


RETRIES: Final = "retries"
SUCCESS: Final = "_SUCCESS"
"""The last object of a run, or of a retry: all is done, and proven."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run, or a retry of its dead letters, that has a plan."""

    spec: Spec
    """As the run was planned: a resumed run keeps its own cut."""

    totals: Totals
    fingerprint: str
    resumed: bool
    folder: str
    """Where plan and ledger lie."""


def prepare(store: Store, spec: Spec, shards: Iterable[Shard]) -> Planned:
    """Plan a run, or take up the plan that its folder holds.

    Args:
        store: Where the run folder lies.
        spec: What is asked for.
        shards: The plan; read only where the folder holds none.

    Raises:
        RunError: The folder holds another run, or something else.
        InputError: There is nothing to plan.
    """
    return _prepare(store, spec, spec.run, spec.identity(), shards)


def prepare_retry(
    store: Store, first: Planned, number: int, shards: Iterable[Shard]
) -> Planned:
    """Plan a retry of a run's dead letters, or take up the plan of one.

    Args:
        store: Where the run folder lies.
        first: The run.
        number: Of the retry, from 1.
        shards: The plan; read only where the folder holds none.

    Raises:
        RunError: The folder holds something else.
    """
    identity = {"run": first.fingerprint, "retry": number}
    folder = join(first.spec.run, RETRIES, f"{number:03d}")
    return _prepare(store, first.spec, folder, identity, shards)


def list_folders(store: Store, run: str) -> list[str]:
    """The run folder, and those of its retries, in order: each has plan and ledger."""
    names = [name for name in store.folders(join(run, RETRIES)) if name.isdecimal()]
    found = [join(run, RETRIES, name) for name in names]
    return [run, *(folder for folder in found if load_job(store, folder) is not None)]


@functools.lru_cache(maxsize=16)
def fingerprints_before(store: Store, run: str, folder: str) -> frozenset[str]:
    """Fingerprints of the run and of its retries before the one in a folder, if any."""
    if folder in {"", run}:
        return frozenset()
    before = itertools.takewhile(lambda one: one != folder, list_folders(store, run))
    return frozenset(require_job(store, one)["fingerprint"] for one in before)


def is_finished(store: Store, folder: str) -> bool:
    """Whether a run, or a retry, is done in full."""
    return store.exists(join(folder, SUCCESS))


def _prepare(
    store: Store,
    spec: Spec,
    folder: str,
    identity: dict[str, Any],
    shards: Iterable[Shard],
) -> Planned:
    held = load_job(store, folder)
    if held is not None:
        return _resume(spec, folder, identity, held)
    _write(store, spec, folder, identity, shards)
    held = require_job(store, folder)
    return replace(_resume(spec, folder, identity, held), resumed=False)


def _write(
    store: Store,
    spec: Spec,
    folder: str,
    identity: dict[str, Any],
    shards: Iterable[Shard],
) -> None:
    about = {"identity": digest_of(identity), "cut": asdict(spec.cut)}
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        local = Path(scratch, "plan.parquet")
        totals = write_plan(shards, local, about=about)
        if store.create_from(plan_uri(folder), local) is None:
            totals, about = _adopt(store, folder, about, Path(scratch))
    fields = {
        "format_version": FORMAT_VERSION,
        "fingerprint": _fingerprint(spec, identity, totals),
        "identity": identity,
        "plan": asdict(totals),
        "cut": about["cut"],
        "access": asdict(spec.access),
        "area": json.loads(spec.area) if spec.area else None,
        "bundle": asdict(spec.bundle),
        "bundle_location": spec.bundle_location,
    }
    store.create(join(folder, "job.json"), json.dumps(fields, indent=1).encode())


def _fingerprint(spec: Spec, identity: dict[str, Any], totals: Totals) -> str:
    if "retry" in identity:
        return digest_of({"plan": totals.digest, **identity})
    return spec.fingerprint(totals.digest)


def load_job(store: Store, run: str) -> dict[str, Any] | None:
    """The content of job.json; None where there is none.

    Raises:
        RunError: It is not of this version.
    """
    uri = join(run, "job.json")
    if not store.exists(uri):
        return None
    try:
        held: dict[str, Any] = json.loads(store.read(uri))
        found = held["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{uri} is not a description of a run; choose a new folder"
        ) from error
    if found != FORMAT_VERSION:
        raise RunError(
            f"{uri} has format_version {found}, this version reads {FORMAT_VERSION}; "
            "use the version of atrous that wrote it"
        )
    return held


def require_job(store: Store, run: str) -> dict[str, Any]:
    """The content of job.json.

    Raises:
        InputError: The folder holds no run.
    """
    held = load_job(store, run)
    if held is None:
        raise InputError(f"{run} holds no run (no job.json); check the path")
    return held


def read_shards(store: Store, folder: str) -> Iterator[Shard]:
    """The shards of a plan, in order."""
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        yield from read_plan(_fetch_plan(store, folder, Path(scratch)))


def plan_uri(folder: str) -> str:
    """Where a run or a retry keeps its plan."""
    return join(folder, "plan.parquet")


def _resume(
    spec: Spec, folder: str, identity: dict[str, Any], held: dict[str, Any]
) -> Planned:
    made_for = held.get("identity") or {}
    differences = [
        f"{name} {_short(made_for.get(name))}, now {_short(value)}"
        for name, value in identity.items()
        if made_for.get(name) != value
    ]
    if differences:
        raise RunError(
            f"{folder} holds a run with other options ({'; '.join(differences)}); "
            "give the same ones to resume it, or choose a new run folder"
        )
    try:
        return Planned(
            spec=replace(spec, cut=Cut(**held["cut"])),
            totals=Totals(**held["plan"]),
            fingerprint=held["fingerprint"],
            resumed=True,
            folder=folder,
        )
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{folder}/job.json is damaged ({error}); choose a new run folder"
        ) from error


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text  # noqa: PLR2004 - a SHA-256


def check_free(store: Store, run: str) -> None:
    """Make sure that a folder holds a run, or nothing.

    Raises:
        RunError: It holds something else.
    """
    if load_job(store, run) is not None:
        return
    for found in store.iterate(run):
        ours = found.uri == plan_uri(run) or "/_probe/" in found.uri
        if not ours and "/.new-" not in found.uri:
            raise RunError(
                f"{run} is not empty and holds no run (found {found.uri}); "
                "choose a new run folder"
            )


def _adopt(
    store: Store, folder: str, about: dict[str, Any], scratch: Path
) -> tuple[Totals, dict[str, Any]]:
    """Take over a plan, and its cut, from a driver that got no further or is ahead."""
    local = _fetch_plan(store, folder, scratch)
    found = read_about(local)
    if found["identity"] != about["identity"]:
        raise RunError(
            f"{folder} holds a plan made with other options; choose a new run folder"
        )
    return measure_plan(local), found


def _fetch_plan(store: Store, folder: str, scratch: Path) -> Path:
    local = scratch / "plan.parquet"
    store.save(plan_uri(folder), local)
    return local
