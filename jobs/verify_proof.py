"""What a run says of itself at its end, against what was counted."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from jobs.conclude import MANIFEST
from jobs.errors import ItemError
from jobs.folder import SUCCESS
from jobs.outputs.recount import read_rows
from jobs.storage import join
from jobs.verify_letters import COLUMNS, digest_of_row
from jobs.verify_report import NOT_FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import Output
    from jobs.storage import Store
    from jobs.tally import Tally
    from jobs.verify_folder import Pass
    from jobs.verify_letters import Letters
    from jobs.verify_report import Tell

_LETTERS: Final = "dead_letter.parquet"
_SUMMARY: Final = "summary.json"
_COLUMNS: Final = ("name", "size", "sha256", "etag")
_COUNTED: Final = (
    "items",
    "shards",
    "bytes_planned",
    "pixels",
    "dead_letters",
    "dead_letter_codes",
    "bytes_written",
)
"""What of a summary is counted again; seconds cannot be."""


class Manifest:
    """The manifest of a pass, held against its outputs row by row."""

    def __init__(self, store: Store, one: Pass, tell: Tell) -> None:
        """Read it, if it must be there."""
        self._name, self._tell = f"{one.prefix}{MANIFEST}", tell
        self._rows: Iterator[dict[str, Any]] | None = None
        self.described = {"name": MANIFEST, "size": 0, "sha256": ""}
        if not one.complete:
            return
        try:
            data = store.read(join(one.uri, MANIFEST))
        except ItemError as error:
            kind = "missing" if error.code == "not_found" else "unreadable"
            tell(kind, self._name, "the manifest", error.message)
            return
        sha256 = hashlib.sha256(data).hexdigest()
        self.described |= {"size": len(data), "sha256": sha256}
        self._rows = read_rows(data, _COLUMNS)

    def expect(self, output: Output) -> None:
        """The next row names this output."""
        self._compare(asdict(output))

    def end(self) -> None:
        """There is no other row."""
        self._compare(None)

    def stop(self) -> None:
        """The outputs are not known any more, so that nothing can be said."""
        self._rows = None

    def _compare(self, expected: dict[str, Any] | None) -> None:
        if self._rows is None:
            return
        try:
            row = next(self._rows, None)
        except ValueError as error:
            self._tell("unreadable", self._name, "a manifest", error)
            self.stop()
            return
        if row != expected:
            # All that follows may be off by one, so this is told once.
            self._tell(
                "wrong_manifest", self._name, expected or "its end", row or "its end"
            )
            self.stop()


def check_success(
    store: Store, one: Pass, tally: Tally, manifest: Manifest, tell: Tell
) -> None:
    """Hold a pass's ``_SUCCESS`` against what was counted."""
    name = f"{one.prefix}{SUCCESS}"
    proof = _read_json(store, join(one.uri, SUCCESS), name, tell)
    if proof is None:
        return
    if proof.get("fingerprint") != one.fingerprint:
        tell("wrong_record", name, one.fingerprint, proof.get("fingerprint"))
    if manifest.described["size"] and proof.get("manifest") != manifest.described:
        expected = proof.get("manifest")
        tell("wrong_manifest", f"{one.prefix}{MANIFEST}", expected, manifest.described)
    _compare(tally.summary(one.totals, finished=True), proof, name, tell)


def check_views(
    store: Store, passes: list[Pass], tally: Tally, letters: Letters, tell: Tell
) -> None:
    """Hold what people look at first against what was counted.

    Both views are written after the proof, so a process that was killed in between
    leaves none, or those of an earlier pass.
    """
    run, first = passes[0].uri, passes[0]
    try:
        summary = {**json.loads(store.read(join(run, _SUMMARY)))}
        rows = list_digest(store.read(join(run, _LETTERS)))
    except ItemError as error:
        kind = NOT_FINISHED if error.code == "not_found" else "unreadable"
        tell(kind, _SUMMARY, "views of a run that is done", error.message)
        return
    except (ValueError, TypeError) as error:
        tell("unreadable", _SUMMARY, f"a JSON object, and {_LETTERS}", error)
        return
    age = summary.get("retries"), summary.get("finished")
    if age != (len(passes) - 1, True):
        tell(NOT_FINISHED, _SUMMARY, f"{len(passes) - 1} retries, all finished", age)
        return
    tally.stages, tally.codes = letters.tally.stages, letters.tally.codes
    expected = tally.summary(first.totals, finished=True)
    expected["shards"]["planned"] = sum(one.totals.shards for one in passes)
    _compare(expected, summary, _SUMMARY, tell)
    if rows != (letters.tally.dead, letters.digest):
        held = f"the {letters.tally.dead} dead letters of the ledger"
        tell("wrong_count", _LETTERS, held, f"{rows[0]}, or others")


def list_digest(data: bytes) -> tuple[int, int]:
    """How many dead letters a file holds, and a sum over them."""
    count = digest = 0
    for row in read_rows(data, COLUMNS):
        count += 1
        digest ^= digest_of_row(row)
    return count, digest


def _read_json(store: Store, uri: str, name: str, tell: Tell) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = {**json.loads(store.read(uri))}
    except (ItemError, ValueError, TypeError) as error:
        missing = isinstance(error, ItemError) and error.code == "not_found"
        tell("missing" if missing else "unreadable", name, "a JSON object", error)
        return None
    return found


def _compare(
    expected: dict[str, Any], found: dict[str, Any], name: str, tell: Tell
) -> None:
    for key in _COUNTED:
        if found.get(key) != expected[key]:
            tell("wrong_count", name, f"{key} {expected[key]}", found.get(key))
