"""The records of a plan, read one by one, each held against its name and its shard."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from jobs import ledger
from jobs.errors import ItemError, RunError
from jobs.ledger import Output, TaskRecord, parse_record
from jobs.prefetch import map_ahead
from jobs.storage import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.ledger import Record
    from jobs.shards import Shard
    from jobs.storage import Store
    from jobs.verify_folder import Pass
    from jobs.verify_report import Tell

_READERS: Final = 16
_THOUSAND: Final = re.compile(r"\d{6,}")
_MERGED: Final = re.compile(r"(\d{6,})\.jsonl\.gz")
_RECORD: Final = re.compile(r"(\d{9,})\.json")
_BESIDE: Final = {"merged", "tasks"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What the ledger holds of one shard."""

    shard: int
    name: str
    record: Record | None
    """None where there is one that cannot be used, which was told."""


def pair(
    shards: Iterable[Shard], found: Iterator[Found], one: Pass, tell: Tell
) -> Iterator[tuple[Shard, Found | None]]:
    """Every shard with its record; None where it has none, which is told if it must.

    Args:
        shards: In order of index.
        found: In order of shard, each once.
        one: Whose they are.
        tell: Is told what was not planned, and what is not there although all was.
    """
    held = next(found, None)
    for shard in shards:
        while held is not None and held.shard < shard.index:
            tell("extra_record", held.name, "a planned shard", f"shard {held.shard}")
            held = next(found, None)
        if held is not None and held.shard == shard.index:
            yield shard, held
            held = next(found, None)
            continue
        if one.complete:
            tell("missing_record", _name(one, shard.index), "a record", "nothing")
        yield shard, None
    while held is not None:
        tell("extra_record", held.name, "a planned shard", f"shard {held.shard}")
        held = next(found, None)


def read_found(store: Store, one: Pass, tell: Tell, *, deep: bool) -> Iterator[Found]:
    """All that a ledger holds, in order of shard, each shard once.

    Args:
        store: Where the run lies.
        one: Whose ledger.
        tell: Is told what cannot be used.
        deep: Also hold every record against its copy in a merged thousand.
    """
    root = join(one.uri, "ledger")
    merged = _merged(store, one, tell)
    thousands = set(merged)
    for name in store.folders(root):
        if _THOUSAND.fullmatch(name):
            thousands.add(int(name))
        elif name not in _BESIDE:
            tell("extra_record", f"{one.prefix}ledger/{name}", "a thousand", "a folder")
    for thousand in sorted(thousands):
        names = _names(store, one, thousand, tell)
        lines = _lines(store, one, thousand, tell) if thousand in merged else None
        if lines is None:
            yield from _read(store, one, names, tell)
            continue
        _check_whole(one, thousand, names, tell)
        if deep:
            _compare(store, one, thousand, names, lines, tell)
        yield from _unpack(one, thousand, lines, tell)


def _merged(store: Store, one: Pass, tell: Tell) -> set[int]:
    found = set()
    for name in _list(store, one, "merged"):
        match = _MERGED.fullmatch(name)
        if match is not None:
            found.add(int(match[1]))
        else:
            tell("extra_record", f"{one.prefix}ledger/merged/{name}", "a thousand", name)
    return found


def _list(store: Store, one: Pass, *folder: str) -> Iterator[str]:
    """Names of the objects of a folder of the ledger, but for unfinished files."""
    root = join(one.uri, "ledger", *folder)
    for found in store.find(root):
        name = found.uri.removeprefix(f"{root}/")
        if not PurePosixPath(name).name.startswith("."):
            yield name


def _names(store: Store, one: Pass, thousand: int, tell: Tell) -> list[tuple[int, str]]:
    """Shards of a thousand that have a record of their own, and its name."""
    folder = f"{thousand:06d}"
    found = []
    for name in _list(store, one, folder):
        full = f"{one.prefix}ledger/{folder}/{name}"
        match = _RECORD.fullmatch(name)
        if match is not None and full == _name(one, int(match[1])):
            found.append((int(match[1]), full))
        else:
            tell("extra_record", full, f"a shard of thousand {thousand}", "that name")
    return found


def _lines(store: Store, one: Pass, thousand: int, tell: Tell) -> list[bytes] | None:
    """The lines of a merged thousand; None where they cannot be had."""
    name = _merged_name(one, thousand)
    try:
        return gzip.decompress(store.read(_uri(one, name))).splitlines()
    except (ItemError, OSError, EOFError, zlib.error) as error:
        tell("unreadable", name, "a thousand records", error)
        return None


def _check_whole(
    one: Pass, thousand: int, names: list[tuple[int, str]], tell: Tell
) -> None:
    """Only a complete thousand is merged, so each of its records was there."""
    there = {shard for shard, _ in names}
    for shard in range(thousand * ledger.GROUP, (thousand + 1) * ledger.GROUP):
        if shard not in there:
            tell("missing_record", _name(one, shard), "as in the merged one", "nothing")


def _compare(
    store: Store,
    one: Pass,
    thousand: int,
    names: list[tuple[int, str]],
    lines: list[bytes],
    tell: Tell,
) -> None:
    """Hold each record against its line."""
    uris = [_uri(one, name) for _, name in names]
    alone = map_ahead(lambda uri: _read_bytes(store, uri), uris, threads=_READERS)
    for (shard, name), data in zip(names, alone, strict=True):
        at = shard - thousand * ledger.GROUP
        line = lines[at] if at < len(lines) else b"nothing"
        if data != line:
            got = data.decode(errors="replace")
            tell("wrong_record", name, f"as merged: {line.decode(errors='replace')}", got)


def _read_bytes(store: Store, uri: str) -> bytes:
    try:
        return store.read(uri)
    except ItemError as error:
        return str(error).encode()


def _unpack(one: Pass, thousand: int, lines: list[bytes], tell: Tell) -> Iterator[Found]:
    name = _merged_name(one, thousand)
    if len(lines) != ledger.GROUP:
        tell("wrong_record", name, f"{ledger.GROUP} records", len(lines))
    for shard, line in enumerate(lines[: ledger.GROUP], start=thousand * ledger.GROUP):
        yield _parse(shard, name, line, tell)


def _read(
    store: Store, one: Pass, names: list[tuple[int, str]], tell: Tell
) -> Iterator[Found]:
    def fetch(name: str) -> bytes | ItemError:
        try:
            return store.read(_uri(one, name))
        except ItemError as error:
            return error

    fetched = map_ahead(fetch, (name for _, name in names), threads=_READERS)
    for (shard, name), data in zip(names, fetched, strict=True):
        if isinstance(data, ItemError):
            tell("unreadable", name, "a record", data)
            yield Found(shard=shard, name=name, record=None)
        else:
            yield _parse(shard, name, data, tell)


def _parse(shard: int, name: str, data: bytes, tell: Tell) -> Found:
    """A record that should be a shard's."""
    record = None
    try:
        record = parse_record(name, data)
    except RunError as error:
        cause = error.__cause__
        unread = json.JSONDecodeError | UnicodeDecodeError
        counted = isinstance(cause, ValueError) and not isinstance(cause, unread)
        kind = "wrong_count" if counted else "unreadable"
        tell(kind, name, f"the record of shard {shard}", cause)
    if record is not None and record.shard != shard:
        tell("wrong_record", name, f"shard {shard}", f"shard {record.shard}")
        record = None
    return Found(shard=shard, name=name, record=record)


def _name(one: Pass, shard: int) -> str:
    return f"{one.prefix}ledger/{shard // ledger.GROUP:06d}/{shard:09d}.json"


def _merged_name(one: Pass, thousand: int) -> str:
    return f"{one.prefix}ledger/merged/{thousand:06d}.jsonl.gz"


def _uri(one: Pass, name: str) -> str:
    return join(one.uri, name.removeprefix(one.prefix))


def read_tasks(store: Store, one: Pass, tell: Tell) -> dict[str, TaskRecord]:
    """The records of assemblies, by name of the COG, in the order of their objects."""
    found = {}
    for name in _list(store, one, "tasks"):
        full = f"{one.prefix}ledger/tasks/{name}"
        try:
            fields = json.loads(store.read(_uri(one, full)))
            outputs = tuple(Output(**output) for output in fields.pop("outputs"))
            found[name.removesuffix(".json")] = TaskRecord(**fields, outputs=outputs)
        except (ItemError, ValueError, TypeError, LookupError, AttributeError) as error:
            tell("unreadable", full, "the record of an assembly", error)
    return found
