"""A run folder: planned once, recognised when it is met again.

``plan.parquet`` is written first and names the options it was made for;
``job.json`` follows. Both are created once, so two drivers that start together
agree on one plan, and what was planned is never listed again.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.errors import InputError, RunError
from jobs.plan import Totals, measure_plan, read_about, read_plan, write_plan
from jobs.spec import FORMAT_VERSION, Cut, Spec, digest_of
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.shards import Shard
    from jobs.storage import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A run that has a plan."""

    spec: Spec
    """As the run was planned: a resumed run keeps its own cut."""

    totals: Totals
    fingerprint: str
    resumed: bool


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
    held = load_job(store, spec.run)
    if held is not None:
        return _resume(spec, held)
    try:
        _write(store, spec, shards)
    except OSError as error:
        raise RunError(f"{spec.run} cannot be written: {error}") from error
    return replace(_resume(spec, require_job(store, spec.run)), resumed=False)


def _write(store: Store, spec: Spec, shards: Iterable[Shard]) -> None:
    cut = asdict(spec.cut)
    identity = digest_of(spec.identity())
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        local = Path(scratch, "plan.parquet")
        totals = write_plan(shards, local, about={"identity": identity, "cut": cut})
        if not store.create_from(plan_uri(spec.run), local):
            totals, cut = _adopt(store, spec, identity, Path(scratch))
    store.create(join(spec.run, "job.json"), _describe(spec, totals, cut))


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


def read_shards(store: Store, run: str) -> Iterator[Shard]:
    """The shards of a planned run, in order."""
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        yield from read_plan(_fetch_plan(store, run, Path(scratch)))


def plan_uri(run: str) -> str:
    """Where a run keeps its plan."""
    return join(run, "plan.parquet")


def _resume(spec: Spec, held: dict[str, Any]) -> Planned:
    identity = held.get("identity") or {}
    differences = [
        f"{name} {_short(identity.get(name))}, now {_short(value)}"
        for name, value in spec.identity().items()
        if identity.get(name) != value
    ]
    if differences:
        raise RunError(
            f"{spec.run} holds a run with other options ({'; '.join(differences)}); "
            "give the same ones to resume it, or choose a new run folder"
        )
    try:
        return Planned(
            spec=replace(spec, cut=Cut(**held["cut"])),
            totals=Totals(**held["plan"]),
            fingerprint=held["fingerprint"],
            resumed=True,
        )
    except (KeyError, TypeError) as error:
        raise RunError(
            f"{spec.run}/job.json is damaged ({error}); choose a new run folder"
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
    for found in store.find(run):
        if found.uri != plan_uri(run) and "/.new-" not in found.uri:
            raise RunError(
                f"{run} is not empty and holds no run (found {found.uri}); "
                "choose a new run folder"
            )


def _adopt(
    store: Store, spec: Spec, identity: str, scratch: Path
) -> tuple[Totals, dict[str, Any]]:
    """Take over a plan, and its cut, from a driver that got no further or is ahead."""
    local = _fetch_plan(store, spec.run, scratch)
    about = read_about(local)
    if about["identity"] != identity:
        raise RunError(
            f"{spec.run} holds a plan made with other options; choose a new run folder"
        )
    return measure_plan(local), about["cut"]


def _fetch_plan(store: Store, run: str, scratch: Path) -> Path:
    local = scratch / "plan.parquet"
    local.write_bytes(store.read(plan_uri(run)))
    return local


def _describe(spec: Spec, totals: Totals, cut: dict[str, Any]) -> bytes:
    bundle = asdict(spec.bundle)
    fields = {
        "format_version": FORMAT_VERSION,
        "fingerprint": spec.fingerprint(totals.digest),
        "identity": spec.identity(),
        "plan": asdict(totals),
        "cut": cut,
        "access": asdict(spec.access),
        "bundle": bundle,
    }
    return json.dumps(fields, indent=1).encode()
