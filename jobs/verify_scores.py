"""What a run of the evaluate job counted, and what it says that comes to, counted again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.errors import ItemError, RunError
from jobs.evaluation import EVALUATION, FIGURE, IMAGES, Total, write_evaluation
from jobs.evaluation_figure import draw_evaluation
from jobs.ledger import bare, parse_record
from jobs.outputs.recount import read_rows
from jobs.outputs.score_table import write_image_rows
from jobs.outputs.scores import NUMBERS, parse_part
from jobs.storage import join
from jobs.verify_letters import digest_of_row
from jobs.verify_report import NOT_FINISHED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from jobs.ledger import Record
    from jobs.outputs.scores import Part
    from jobs.shards import Shard
    from jobs.storage import Store
    from jobs.verify_folder import Pass
    from jobs.verify_outputs import Told
    from jobs.verify_report import Tell

_COLUMNS: Final = ("uri", "key", "pixels", "unknown", "mean_iou", "accuracy", "boundary_f1")


def inspect_scores(shard: Shard, record: Record, one: Pass, path: Path) -> Iterator[Told]:
    """Add up a shard's scores again.

    Raises:
        ValueError: They are damaged.
    """
    part = parse_part(path.read_bytes(), one.classes)
    try:
        signed = parse_record(path.name, part.record)
    except RunError as error:
        raise ValueError(str(error)) from error
    expected = bare(record)
    if signed != expected:
        yield "wrong_record", f"the record that it was signed with, {expected}", signed
    dead = {letter.uri for letter in record.dead_letters}
    left = [(item.uri, item.key) for item in shard.items if item.uri not in dead]
    given = [(score.uri, score.key) for score in part.images]
    if given != left:
        yield "wrong_count", f"scores of {len(left)} items: {left}", given
    yield from _inspect_sums(part, record, one.classes)


def _inspect_sums(part: Part, record: Record, classes: int) -> Iterator[Told]:
    """Hold the images of a shard against its sums, and these against its record."""
    sums: NDArray[np.int64] = np.zeros((NUMBERS, classes), dtype=np.int64)
    pixels = unknown = 0
    for score in part.images:
        pixels += score.pixels
        unknown += score.unknown
        for name, numbers in score.classes.items():
            if not (name.isdecimal() and int(name) < classes and len(numbers) == NUMBERS):
                raise ValueError(f"{score.key} has numbers of class {name}: {numbers}")
            sums[:, int(name)] += numbers
    if (pixels, unknown) != (record.pixels_done, record.pixels_nodata):
        expected = f"{record.pixels_done} pixels judged, {record.pixels_nodata} not"
        yield "wrong_count", expected, f"{pixels} and {unknown}"
    confusion, scores = part.scores.confusion, part.scores
    counted = [confusion.true, confusion.given, confusion.hits, *scores.boundaries.counts]
    if not np.array_equal(sums, np.stack(counted)):
        yield "wrong_count", "images that add up to the shard", "other sums"
    right = int(scores.calibration.counts[1].sum())
    sure = int(scores.calibration.counts.sum())
    if (right, sure) != (int(confusion.hits.sum()), int(confusion.given.sum())):
        yield "wrong_count", "a confidence of each pixel that was given a class", sure


def check_evaluation(store: Store, first: Pass, tell: Tell, *, deep: bool) -> None:
    """Hold what a finished run comes to against its scores.

    Args:
        store: Where the run folder lies.
        first: The run.
        tell: Is told of differences.
        deep: Add all scores up again; otherwise what is there is only looked at.
    """
    for name in (EVALUATION, FIGURE, IMAGES):
        if not store.exists(join(first.uri, name)):
            tell(NOT_FINISHED, name, "what the run comes to", "nothing")
            return
    try:
        found = store.read(join(first.uri, EVALUATION))
        made_by = {**json.loads(found)}.get("fingerprint")
    except (ItemError, ValueError, TypeError) as error:
        tell("unreadable", EVALUATION, "a JSON object", error)
        return
    if made_by != first.fingerprint:
        tell("wrong_record", EVALUATION, first.fingerprint, made_by)
    if deep:
        _check_deep(store, first.uri, found, tell)


def _check_deep(store: Store, run: str, found: bytes, tell: Tell) -> None:
    with tempfile.TemporaryDirectory(prefix="atrous-") as scratch:
        path = Path(scratch, IMAGES)
        try:
            total = Total(store, run)
            write_image_rows(path, total.rows())
        except RunError:
            return  # the part that cannot be read was told
        expected = total.describe()
        if found != write_evaluation(expected):
            got = _differing(expected, json.loads(found))
            tell("wrong_count", EVALUATION, "what its scores add up to", got)
        elif store.read(join(run, FIGURE)) != draw_evaluation(expected).encode():
            tell("replaced", FIGURE, f"a figure of {EVALUATION}", "another")
        try:
            rows = list_rows(store.read(join(run, IMAGES)))
        except ValueError as error:
            tell("unreadable", IMAGES, "a table of images", error)
            return
        if rows != list_rows(path.read_bytes()):
            tell("wrong_count", IMAGES, "a row of each image", "others")


def list_rows(data: bytes) -> tuple[int, int]:
    """How many rows a table of images has, and a sum over them."""
    count = digest = 0
    for row in read_rows(data, _COLUMNS):
        count += 1
        digest ^= digest_of_row(row)
    return count, digest


def _differing(expected: dict[str, Any], found: dict[str, Any]) -> str:
    names = [name for name, value in expected.items() if found.get(name) != value]
    return f"other {', '.join(names) or 'text'}"
