"""A run, or a retry of it, as its folder describes it: job, plan and proof."""

from __future__ import annotations

import contextlib
import json
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jobs.conclude import MANIFEST
from jobs.errors import ItemError, RunError
from jobs.folder import RETRIES, SUCCESS, load_job, plan_uri
from jobs.plan import Totals, measure_plan, read_about, read_plan
from jobs.shards import MOSAIC
from jobs.spec import digest_of
from jobs.storage import join
from jobs.windows import cut_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.shards import Block, Shard
    from jobs.storage import Store
    from jobs.verify_report import Tell

JOB: Final = "job.json"
PLAN: Final = "plan.parquet"

_PLACE: Final = {"source", "limit", "source_column", "asset", "skip_done_in"}
"""Of a run's identity, what its fingerprint does not hold."""


class DamagedError(Exception):
    """A file that all the rest depends on cannot be used; it was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One plan with its ledger: the run's own, or that of a retry."""

    number: int
    """0 for the run, then that of the retry."""

    uri: str
    prefix: str
    """What stands before a name below the run folder: empty, or ``retries/001/``."""

    job: str
    """``label``, ``map`` or ``evaluate``."""

    fingerprint: str
    identity: dict[str, Any]
    cut: dict[str, Any]
    totals: Totals
    bundle: str
    """Its digest."""

    classes: int
    """How many the bundle tells apart."""

    has_manifest: bool
    has_success: bool

    @property
    def has_rasters(self) -> bool:
        """Whether shards are put together, or written, as rasters."""
        return self.job == "map"

    @property
    def has_images(self) -> bool:
        """Whether an item is done once, and not block by block."""
        truth = self.identity.get("truth") or {}
        of_rasters = self.job == "evaluate" and truth.get("form") == "raster"
        return not (self.has_rasters or of_rasters)

    @property
    def complete(self) -> bool:
        """Whether every shard was in the ledger once: then the manifest was written."""
        return self.has_manifest or self.has_success


def list_passes(store: Store, run: str, tell: Tell) -> list[Pass]:
    """The run and its retries, in order; a retry that cannot be used is told.

    Raises:
        DamagedError: The run itself cannot be used.
    """
    first = _open(store, run, None, tell)
    if first is None:
        raise DamagedError
    found = [first]
    for name in retry_names(store, run):
        with contextlib.suppress(DamagedError):
            one = _open(store, run, name, tell, job=first.job)
            found += [] if one is None else [one]
    numbers = [one.number for one in found]
    for number in range(numbers[-1]):
        if number not in numbers:
            name = f"{RETRIES}/{number:03d}/{JOB}"
            tell("missing", name, f"what retry {number} was for", "nothing")
    _check_identities(found, tell)
    return found


def retry_names(store: Store, run: str) -> list[str]:
    """Names of the folders of retries, also of one that is only being planned."""
    return [name for name in store.folders(join(run, RETRIES)) if name.isdecimal()]


def _open(
    store: Store, run: str, retry: str | None, tell: Tell, job: str = ""
) -> Pass | None:
    uri = run if retry is None else join(run, RETRIES, retry)
    prefix = "" if retry is None else f"{RETRIES}/{retry}/"
    try:
        held = load_job(store, uri)
        if held is None:
            return None
        return Pass(
            number=int(retry or 0),
            uri=uri,
            prefix=prefix,
            job=job or held["identity"]["job"],
            fingerprint=held["fingerprint"],
            identity=held["identity"],
            cut=held["cut"],
            totals=Totals(**held["plan"]),
            bundle=held["bundle"]["digest"],
            classes=len(held["bundle"]["classes"]),
            has_manifest=store.exists(join(uri, MANIFEST)),
            has_success=store.exists(join(uri, SUCCESS)),
        )
    except (RunError, ItemError, KeyError, TypeError) as error:
        tell("unreadable", f"{prefix}{JOB}", "a description of a run", error)
        raise DamagedError from error


def _check_identities(passes: list[Pass], tell: Tell) -> None:
    """Whether fingerprints follow from what they stand for."""
    first = passes[0]
    for one in passes:
        of_run = {"run": first.fingerprint, "retry": one.number}
        if one.number and one.identity != of_run:
            tell("wrong_plan", f"{one.prefix}{JOB}", of_run, one.identity)
        kept = {k: value for k, value in one.identity.items() if k not in _PLACE}
        made = digest_of({"plan": one.totals.digest, **kept})
        if one.fingerprint != made:
            tell("wrong_plan", f"{one.prefix}{JOB}", f"fingerprint {made}", one.fingerprint)


@contextlib.contextmanager
def fetch_plan(store: Store, one: Pass, tell: Tell) -> Iterator[Path]:
    """A pass's plan as a local file, held against job.json.

    Raises:
        DamagedError: It cannot be used.
    """
    name = f"{one.prefix}{PLAN}"
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        yield _fetch(store, one, name, Path(scratch, PLAN), tell)


def _fetch(store: Store, one: Pass, name: str, local: Path, tell: Tell) -> Path:
    try:
        store.save(plan_uri(one.uri), local)
        about, totals = read_about(local), measure_plan(local)
    except ItemError as error:
        kind = "missing" if error.code == "not_found" else "unreadable"
        tell(kind, name, "the plan", error.message)
        raise DamagedError from error
    except (RunError, OSError, ValueError, LookupError, TypeError) as error:
        tell("unreadable", name, "a plan", error)
        raise DamagedError from error
    expected = {"identity": digest_of(one.identity), "cut": one.cut}
    if about != expected:
        tell("wrong_plan", name, json.dumps(expected), json.dumps(about))
    if totals != one.totals:
        tell("wrong_plan", name, asdict(one.totals), asdict(totals))
    return local


def read_checked(path: Path, one: Pass, tell: Tell) -> Iterator[Shard]:
    """The shards of a plan, each held against those before it."""
    name = f"{one.prefix}{PLAN}"
    order = _Once() if one.number else _Order(one.cut["block"])
    for number, shard in enumerate(read_plan(path)):
        if shard.index != number:
            tell("wrong_plan", name, f"shard {number}", f"shard {shard.index}")
        for expected in order.take(shard):
            tell("wrong_plan", name, expected, f"shard {number}")
        yield shard
    for expected in order.end():
        tell("wrong_plan", name, expected, "the end")


class _Order:
    """A run plans items in order of URI, and all the blocks of a raster in a row."""

    def __init__(self, side: int) -> None:
        self._side = side
        self._last = ""
        self._blocks: Iterator[Block] = iter(())

    def take(self, shard: Shard) -> Iterator[str]:
        """What should be there in place of a shard."""
        # A mosaic comes first, and its scenes in the order in which they win.
        for item, block in shard.rasters:
            yield from self._take(item.uri, block)

    def _take(self, uri: str, block: Block | None) -> Iterator[str]:
        if block is None or uri != self._last:
            yield from self.end()
            if self._last != MOSAIC and self._last >= uri:
                yield f"items in order after {self._last}, each once"
            if block is not None:
                size, grid = (block.height, block.width), block.grid
                self._blocks = cut_blocks(*size, self._side, grid=grid)
        self._last = uri
        known = block if block is None else replace(block, decoded=0)
        if known is not None and next(self._blocks, None) != known:
            yield f"the next block of {self._last}"

    def end(self) -> Iterator[str]:
        if next(self._blocks, None) is not None:
            yield f"all the blocks of {self._last}"


class _Once:
    """A retry plans items as they come, each of them once."""

    def __init__(self) -> None:
        self._seen: set[Place] = set()

    def take(self, shard: Shard) -> Iterator[str]:
        """What should be there in place of a shard."""
        for place in places(shard):
            if place in self._seen:
                yield f"{place[0]} once"
            self._seen.add(place)

    def end(self) -> Iterator[str]:
        return iter(())


Place = tuple[str, int | None, int | None]
"""An item, and the first row and column of its block; None for the whole."""


def places(shard: Shard) -> list[Place]:
    """What a shard is to see to."""
    return [(item.uri, *_corner(block)) for item, block in shard.parts]


def _corner(block: Block | None) -> tuple[int | None, int | None]:
    return (None, None) if block is None else (block.core.row, block.core.col)
