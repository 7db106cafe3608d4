"""Files of masks that rotate: no item is ever in two of them or in none.

The slow twin is a list: what several attempts made of it, one after the other or side
by side, must be what one attempt makes.
"""

import dataclasses
import functools
import json
from datetime import timedelta
from random import Random
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs.clean import clean_run
from jobs.errors import RunError, StoreError
from jobs.ledger import dead_letter
from jobs.outputs import mask_files
from jobs.outputs.files import store_file
from jobs.outputs.mask_files import MaskFiles, first_name, mask_name
from jobs.outputs.masks import MaskWriter, make_row, read_masks, read_record
from jobs.shards import Shard
from jobs.spec import Cut
from jobs.verify import verify_run

KEY = "0123456789abcdef"


def test_names_follow_from_the_first():
    names = [mask_name(KEY, number) for number in (0, 1, 12, 1000)]
    assert names == [
        f"masks/part-{KEY}.parquet",
        f"masks/part-{KEY}-001.parquet",
        f"masks/part-{KEY}-012.parquet",
        f"masks/part-{KEY}-1000.parquet",
    ]
    assert {first_name(name) for name in names} == {names[0]}
    for other in (
        "masks/a",
        "masks/part-0.parquet",
        f"masks/part-{KEY}-1.parquet",
        "a-001",
    ):
        assert first_name(other) == other


@pytest.fixture
def attempt(local_store, tmp_path, make_bundle, make_items, make_result):
    """Attempts at one shard: ``attempt(masks)``, where None is a dead letter."""
    bundle = make_bundle()

    def outcome(item, size):
        if size is None:
            return dead_letter(item, "read", "timed_out", "late")
        mask = np.full((1, size), item.size, dtype=np.uint8)
        result = make_result(mask)
        return make_row(dataclasses.replace(result, item=item), bundle)

    def make(sizes, *, run="run", limit=10, watch=lambda: None):
        items = tuple(make_items(*[i % 4 for i in range(len(sizes))]))
        files = MaskFiles(
            store=local_store,
            run=str(tmp_path / run),
            fingerprint="f",
            limit=limit,
            open=functools.partial(MaskWriter, bundle=bundle),
        )

        def outcomes():
            for item, size in zip(items, sizes, strict=True):
                watch()
                yield outcome(item, size)

        return files.write(Shard(index=3, items=items), outcomes())

    return make


def keys(folder, record):
    """Keys of the rows and of the dead letters, file by file."""
    found = []
    for output in record.outputs:
        data = (folder / output.name).read_bytes()
        signed = json.loads(read_record(data))
        found.append(
            (
                [key for key, _ in read_masks(folder / output.name)],
                [letter["key"] for letter in signed["dead_letters"]],
            )
        )
    return found


def check(folder, record, count):
    """Each item is a row of one file, or a dead letter of one."""
    found = keys(folder, record)
    rows = [key for some, _ in found for key in some]
    letters = [key for _, some in found for key in some]
    assert sorted(rows + letters) == [f"{i:05d}.jpg" for i in range(count)]
    assert len(list((folder / "masks").glob("*.parquet"))) == len(record.outputs)
    assert (record.items, record.items_done) == (count, len(rows))
    assert [letter.key for letter in record.dead_letters] == letters


@pytest.mark.parametrize(
    ("sizes", "files"),
    [
        ((3, 3, 3), [3]),
        ((5, 5, 1), [2, 1]),  # the limit itself still fits
        ((50, 1, 50, 50), [1, 1, 1, 1]),  # larger alone: a file of its own
        ((6, None, 6, None, None), [1, 1]),
        ((None, None), [0]),
        ((None, 50, None, 50, None), [1, 1]),
    ],
)
def test_a_file_ends_before_it_is_too_large(attempt, tmp_path, sizes, files):
    record = attempt(sizes)
    assert [len(rows) for rows, _ in keys(tmp_path / "run", record)] == files
    check(tmp_path / "run", record, len(sizes))
    assert record.pixels_done == sum(filter(None, sizes))
    assert not list((tmp_path / "run" / ".scratch").iterdir())


def test_a_second_attempt_takes_up_what_stands(attempt, tmp_path):
    first = attempt((6, 6, 6, 6))
    assert attempt((6, 6, 6, 6)) == first
    # It reads less, or ends its files elsewhere: what stands is what it was.
    assert attempt((6, None, 6, 1)) == first
    assert attempt((6, 6, 6, 6), limit=100) == first
    assert attempt((6, 6, 6, 6), limit=1) == first
    check(tmp_path / "run", first, 4)


def test_attempts_side_by_side_make_one_shard(attempt, tmp_path):
    """The second attempt, which reads differently, runs in the middle of the first."""
    random = Random(5)

    def meet(case):
        run, stop = f"run-{case}", random.randint(1, 6)
        sizes = [[random.choice((None, 1, 3, 6)) for _ in range(6)] for _ in range(2)]
        limits = [random.randint(1, 20) for _ in range(2)]
        seen, found = [], []

        def watch():
            seen.append(1)
            if len(seen) == stop:
                found.append(attempt(sizes[1], run=run, limit=limits[1]))

        first = attempt(sizes[0], run=run, limit=limits[0], watch=watch)
        assert found == [first]
        check(tmp_path / run, first, 6)
        alone = [
            attempt(some, run=f"alone-{case}-{number}", limit=limits[number])
            for number, some in enumerate(sizes)
        ]
        return tuple(strip(first) == strip(one) for one in alone)

    met = {meet(case) for case in range(15)}
    assert met >= {(False, True), (False, False)}, "the second alone, and a mixture"


def test_an_attempt_that_dies_leaves_what_the_next_one_takes_up(attempt, tmp_path):
    """At every file, and with a store that fails."""
    sizes = (6, None, 6, 6, 6)
    whole = attempt(sizes, run="whole")
    for number in range(len(whole.outputs)):
        run = f"died-{number}"

        def die(store, folder, name, path, *, at=number):
            if name.endswith(whole.outputs[at].name):
                raise StoreError("the store does not answer")
            return store_file(store, folder, name, path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mask_files, "store_file", die)
            with pytest.raises(StoreError):
                attempt(sizes, run=run)
        assert len(list((tmp_path / run / "masks").glob("*"))) == number
        again = attempt(sizes, run=run)
        assert strip(again) == strip(whole)
        check(tmp_path / run, again, 5)


def strip(record):
    """A record without what the store calls its outputs."""
    outputs = tuple(dataclasses.replace(one, etag="") for one in record.outputs)
    return dataclasses.replace(record, outputs=outputs)


def test_a_file_system_without_hard_links(attempt, tmp_path, monkeypatch):
    copied = []

    def refuse(*_):
        copied.append(1)
        raise PermissionError

    attempt((6, 6, 6, 6))
    monkeypatch.setattr(mask_files, "os", SimpleNamespace(link=refuse))
    record = attempt((6, 6, 6, 6), limit=100)
    assert copied
    check(tmp_path / "run", record, 4)


def test_a_file_of_another_shard_is_refused(attempt, tmp_path):
    name = attempt((6, 6)).outputs[0].name
    fields = json.loads(read_record((tmp_path / "run" / name).read_bytes()))
    for change in (
        {"items": 3, "items_done": 3},
        {"items": 0, "items_done": 0},
        {"shard": 9},
    ):
        table = pq.read_table(tmp_path / "run" / name)
        signed = {b"atrous_record": json.dumps(fields | change).encode()}
        pq.write_table(table.replace_schema_metadata(signed), tmp_path / "run" / name)
        with pytest.raises(RunError, match="is not of shard 3; see atrous verify"):
            attempt((6, 6))


# The rest of the program knows them


@pytest.fixture
def rotated(build_label, local):
    """A label run each of whose shards of two images is two files; one image is dead."""
    built = build_label(local)
    spec = dataclasses.replace(built.spec, cut=Cut(shard_items=2, file_bytes=30))
    return dataclasses.replace(built, spec=spec)


def look(built, *, deep=True):
    report = verify_run(built.store, built.run, deep=deep)
    return dict(report.counts)


def test_verify_knows_all_files(rotated):
    planned = rotated.start()
    rotated.work_off(planned, dead={"3.png"})
    names = rotated.names("masks")
    assert len(names) == 4  # two, one and a dead letter, one
    assert sum("-001" in name for name in names) == 1
    assert look(rotated) == {}


def test_verify_tells_a_later_file_that_is_gone_or_of_no_run(rotated):
    rotated.work_off(rotated.start())
    later = [name for name in rotated.names("masks") if "-001" in name]
    assert len(later) == 2
    rotated.write(later[0].replace("-001", "-002"), rotated.read(later[0]))
    assert look(rotated) == {"extra": 1}
    rotated.remove(later[0].replace("-001", "-002"))
    rotated.remove(later[0])
    assert look(rotated) == {"missing": 1}


def test_verify_adds_up_the_files_of_a_shard(rotated):
    """A first file twice: each is sound, and all that is listed agrees."""
    rotated.work_off(rotated.start())
    record = "ledger/000000/000000000.json"

    def edit(fields):
        one, two = fields["outputs"]
        for name in ("size", "sha256", "etag"):
            two[name] = one[name]

    names = [one["name"] for one in json.loads(rotated.read(record))["outputs"]]
    rotated.write(names[1], rotated.read(names[0]))
    rotated.edit(record, edit)
    rotated.conclude(rotated.start())
    found = look(rotated)
    assert found == {"wrong_count": 1}


def test_files_of_an_attempt_under_way_are_nobodys_leftovers(rotated):
    """Also where the shard has no record yet: the next attempt takes them up."""
    planned = rotated.start()
    rotated.work_off(planned, until=2)
    (record,) = [name for name in rotated.names("ledger") if "000000000.json" in name]
    rotated.remove(record)
    assert look(rotated) == {"not_finished": 1} | look(rotated)
    assert "extra" not in look(rotated)
    before = rotated.names("masks")
    clean_run(
        rotated.store,
        rotated.run,
        delete=True,
        older_than=timedelta(),
        uploads_older_than=timedelta(),
    )
    assert rotated.names("masks") == before
    rotated.work_off(planned)
    assert look(rotated) == {}
    stray = before[0].replace(".parquet", "-007.parquet")
    rotated.write(stray, b"late")
    assert look(rotated) == {"extra": 1}
    clean_run(
        rotated.store,
        rotated.run,
        delete=True,
        older_than=timedelta(hours=-1),
        uploads_older_than=timedelta(),
    )
    assert look(rotated) == {}
