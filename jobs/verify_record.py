"""One record against its shard: does it say what can be true of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.mosaic import scenes_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.ledger import DeadLetter, Record
    from jobs.shards import Shard
    from jobs.verify_folder import Pass
    from jobs.verify_ledger import Found
    from jobs.verify_report import Tell


def check_record(shard: Shard, found: Found, one: Pass, tell: Tell) -> None:
    """Hold a record against its shard."""
    record, name = found.record, found.name
    if record is None:
        return
    if record.fingerprint != one.fingerprint:
        tell("wrong_record", name, f"fingerprint {one.fingerprint}", record.fingerprint)
    if record.items != len(shard.items):
        tell("wrong_count", name, f"{len(shard.items)} items", record.items)
    for expected, got in _letters(shard, record):
        tell("wrong_record", name, expected, got)
    for expected, got in _pixels(shard, record):
        tell("wrong_count", name, expected, got)
    allowed = output_name(shard, one)
    given = [output.name for output in record.outputs]
    wanted = [allowed] if one.job == "label" or record.pixels_done else []
    if given != wanted:
        tell("wrong_record", name, f"output {wanted}", given)


def output_name(shard: Shard, one: Pass) -> str:
    """What a shard's output is called, whoever writes it."""
    key = shard.output_key(one.fingerprint)
    return f"masks/part-{key}.parquet" if one.job == "label" else f"pieces/{key}.tif"


def _letters(shard: Shard, record: Record) -> Iterator[tuple[str, str]]:
    left = {item.uri: item.key for item in shard.items}
    core = None if shard.block is None else shard.block.core
    window = None if core is None else (core.row, core.col, core.height, core.width)
    for letter in record.dead_letters:
        if left.pop(letter.uri, None) != letter.key:
            yield "dead letters of its items, each once", letter.uri
        if _window(letter) != window:
            yield f"a dead letter of {window or 'the whole item'}", str(_window(letter))


def _window(letter: DeadLetter) -> tuple[int | None, ...] | None:
    window = letter.row, letter.col, letter.height, letter.width
    return None if window == (None,) * 4 else window


def _pixels(shard: Shard, record: Record) -> Iterator[tuple[str, str]]:
    done, nodata, dead = record.pixels_done, record.pixels_nodata, record.pixels_dead
    got = f"{done} done, {nodata} nodata, {dead} dead"
    if min(done, nodata, dead) < 0:
        yield "no fewer than 0 pixels", got
    whole = 0 if shard.block is None else shard.block.core.size
    known = shard.block is not None or shard.refusal is not None
    if known and done + nodata + dead != whole:
        yield f"{whole} pixels", got
    # A block of a mosaic is lost where each of its scenes is.
    is_lost = 0 < len(record.dead_letters) == len(scenes_of(shard))
    if dead != (whole if is_lost else 0):
        yield f"{whole if is_lost else 0} dead pixels", got
    if not record.items_done and (done or nodata):
        yield "no pixels, as no item is done", got
