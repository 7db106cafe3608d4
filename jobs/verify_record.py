"""One record against its shard: does it say what can be true of it?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jobs.outputs.mask_files import mask_name
from jobs.wholes import done_items, names_of

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
    given = [output.name for output in record.outputs]
    wanted = _outputs(shard, record, one)
    if given not in wanted:
        tell("wrong_record", name, f"output {wanted[0]}", given)


_LEFT_OUT = (
    (),
    ("confidence",),
    ("probabilities",),
    ("confidence", "probabilities"),
)
"""What a run may not make of its rasters."""


def output_names(shard: Shard, one: Pass) -> tuple[str, ...]:
    """What a shard's outputs are called, whoever writes them; of masks the first one."""
    key = shard.output_key(one.fingerprint)
    if one.job == "evaluate":
        return (f"scores/part-{key}.json",)
    if shard.is_whole:
        return tuple(name for item in shard.items for name in names_of(item))
    return (mask_name(key, 0) if one.job == "label" else f"pieces/{key}.tif",)


def later_name(shard: Shard, one: Pass, number: int) -> str:
    """What a further file of a shard's masks is called, if there is one; from 1."""
    return mask_name(shard.output_key(one.fingerprint), number)


def _outputs(shard: Shard, record: Record, one: Pass) -> list[list[str]]:
    """What a record's outputs may be called; rasters with probabilities or without."""
    if not (shard.is_whole and one.has_rasters):
        first = [*output_names(shard, one)]
        if one.job == "label":
            # How many files there are is told by their size; each holds an item at least.
            more = range(1, min(len(record.outputs), len(shard.items)))
            return [[*first, *(later_name(shard, one, number) for number in more)]]
        return [first if record.pixels_done or not one.has_rasters else []]
    made = [names_of(item) for item in done_items(shard, record)]
    return [
        [
            name
            for one in made
            for name in one
            if name not in {one.cog(no) for no in without}
        ]
        for without in _LEFT_OUT
    ]


def _letters(shard: Shard, record: Record) -> Iterator[tuple[str, str]]:
    left = {item.uri: (item.key, block) for item, block in shard.parts}
    for letter in record.dead_letters:
        key, block = left.pop(letter.uri, (None, shard.block))
        if key != letter.key:
            yield "dead letters of its items, each once", letter.uri
        core = None if block is None else block.core
        window = None if core is None else (core.row, core.col, core.height, core.width)
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
    known = shard.pixels > 0 or shard.refusal is not None
    if known and done + nodata + dead != shard.pixels:
        yield f"{shard.pixels} pixels", got
    lost = _dead_pixels(shard, record)
    if dead != lost:
        yield f"{lost} dead pixels", got
    if not record.items_done and (done or nodata):
        yield "no pixels, as no item is done", got


def _dead_pixels(shard: Shard, record: Record) -> int:
    if not shard.blocks:
        # A block of a mosaic is lost where each of its scenes is.
        is_lost = 0 < len(record.dead_letters) == len(shard.scenes)
        return shard.pixels if is_lost else 0
    dead = {letter.uri for letter in record.dead_letters}
    return sum(block.core.size for item, block in shard.parts if block and item.uri in dead)
