"""Files of masks: do they hold what the record of their shard says?"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from jobs.errors import RunError
from jobs.ledger import bare, parse_record
from jobs.outputs.mask_files import join_records
from jobs.outputs.recount import read_signature, recount_masks
from jobs.verify_outputs import IGNORED, NODATA, inspect_values

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jobs.ledger import Record
    from jobs.outputs.recount import MaskRow
    from jobs.shards import Shard
    from jobs.verify_folder import Pass
    from jobs.verify_outputs import Told


class ShardMasks:
    """The files of one shard; what they add up to is checked with the last of them.

    They may be inspected in any order and from several threads.
    """

    def __init__(self, shard: Shard, record: Record, one: Pass) -> None:
        """Nothing is inspected yet."""
        self._shard, self._record, self._one = shard, record, one
        self._lock = threading.Lock()
        self._signed: dict[str, Record] = {}
        self._rows: dict[str, list[tuple[str, str]]] = {}
        self._pixels = self._nodata = 0

    def inspect(self, name: str, path: Path) -> Iterator[Told]:
        """Count one file's masks again.

        Args:
            name: Location below the run folder.
            path: A local copy.

        Raises:
            ValueError: It is no file of masks.
        """
        try:
            signed = parse_record(path.name, read_signature(path))
        except RunError as error:
            raise ValueError(str(error)) from error
        given, pixels, nodata = [], 0, 0
        for row in recount_masks(path):
            given.append((row.fields["uri"], row.fields["key"]))
            yield from _inspect_row(row, self._one)
            pixels += row.size
            nodata += int(row.counts[NODATA])
        with self._lock:
            self._signed[name], self._rows[name] = signed, given
            self._pixels += pixels
            self._nodata += nodata
            is_last = len(self._signed) == len(self._record.outputs)
        if is_last:
            yield from self._inspect_all()

    def _inspect_all(self) -> Iterator[Told]:
        """What the files say together."""
        names = [output.name for output in self._record.outputs]
        record = bare(self._record)
        signed = join_records([self._signed[name] for name in names])
        if signed != record:
            yield "wrong_record", f"the record that it was signed with, {record}", signed
        dead = {letter.uri for letter in self._record.dead_letters}
        items = self._shard.items
        left = [(item.uri, item.key) for item in items if item.uri not in dead]
        given = [row for name in names for row in self._rows[name]]
        if given != left:
            yield "wrong_count", f"rows of {len(left)} items: {left}", given
        expected = self._record.pixels_done, self._record.pixels_nodata
        found = self._pixels - self._nodata, self._nodata
        if found != expected:
            done, nodata = expected
            told = f"{done} pixels done, {nodata} nodata"
            yield "wrong_count", told, "{} and {}".format(*found)


def _inspect_row(row: MaskRow, one: Pass) -> Iterator[Told]:
    fields, key = row.fields, row.fields["key"]
    if row.size != fields["height"] * fields["width"]:
        sides = f"{fields['height']} x {fields['width']}"
        yield "wrong_count", f"{key} of {sides} px", f"{row.size} bytes"
    counted = row.counts[: one.classes].tolist()
    if fields["class_pixels"] != counted:
        yield "wrong_count", f"{key} with class_pixels {counted}", fields["class_pixels"]
    ignored = int(row.counts[IGNORED])
    if fields["ignored_pixels"] != ignored:
        yield "wrong_count", f"{key} with {ignored} ignored", fields["ignored_pixels"]
    known = [mean is not None for mean in fields["class_confidence"]]
    if known != [count > 0 for count in counted]:
        yield "wrong_count", f"{key} with a confidence of each class in it", known
    yield from inspect_values(row.counts, one, key)
    if fields["bundle_digest"] != one.bundle:
        yield "wrong_record", f"{key} by bundle {one.bundle}", fields["bundle_digest"]
