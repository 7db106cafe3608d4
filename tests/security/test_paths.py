"""Names of objects are never paths: whatever a key is, its results stay in the run."""

from __future__ import annotations

import itertools
import random
import unicodedata
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from jobs.assembly import COLLECTION, RasterNames, output_name
from jobs.shards import Item, Shard

KEYS = [
    "../evil",
    "x/../../y",
    "a/./b",
    "a/b",
    "a//b",
    "/a/b",
    "/etc/cron.d/x",
    "dir.tif",
    "dir.tif/child",
    "x\\..\\..\\evil",
    "bell\x07 and \x1b[31mred\x1b[0m",
    " space ",
    "\u00fcber",
    "u\u0308ber",
    "Case",
    "case",
    "con",
    "%2e%2e%2f",
    "%2E%2E%2F",
    "vrt://x",
    "/vsicurl/http://127.0.0.1:1/x",
    "GTIFF_DIR:1:x",
    "-rf",
    ".hidden/x",
    "~/x",
    "$(touch evil)",
    "a?b#c&d=e",
    "*",
    "l" * 1017,
    "\u6771" * 339,
]
"""Without their suffix; a key of S3 has 1024 bytes at most."""

REFUSED = {"../evil", "x/../../y", "a/./b"}
"""Rasters that GDAL would ask S3 for by another name."""

LOOSE = ["..", ".", "folder.tif/", "folder.png/", "a.tif/../", "notes.txt"]
"""Keys that are no inputs."""

OUTPUTS = {"masks", "rasters", "pieces"}


def fold(name):
    """What a file system may take for the same name."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def keys_of(client, bucket):
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {one["Key"]: one["ETag"] for page in pages for one in page["Contents"]}


def tree(folder, skip):
    return {
        path: path.lstat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and not path.is_relative_to(skip)
    }


def letters(path):
    return {row["key"]: row["code"] for row in pq.read_table(path).to_pylist()}


def masks(folder):
    parts = [pq.read_table(path) for path in folder.glob("*.parquet")]
    return sorted(key for part in parts for key in part["key"].to_pylist())


@pytest.fixture
def world(s3_client, bucket, tmp_path, monkeypatch):
    """Notices what is written outside of the run, in a folder or a bucket."""
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    run = folder / "run"

    def look():
        return tree(tmp_path, run), keys_of(s3_client, bucket)

    return SimpleNamespace(run=run, look=look)


@pytest.mark.s3
@pytest.mark.parametrize(
    ("job", "where"), [("label", "local"), ("map", "local"), ("map", "remote")]
)
def test_a_key_is_never_a_path(  # noqa: PLR0913, PLR0917
    job, where, png, tif, bundle, command, world, s3_server, s3_client, bucket
):
    suffix, data = (".png", png) if job == "label" else (".tif", tif)
    names = sorted(f"{key}{suffix}" for key in KEYS)
    for name in [*names, *LOOSE]:
        body = data if name in names else b""
        s3_client.put_object(Bucket=bucket, Key=f"in/{name}", Body=body)
    run = world.run if where == "local" else f"s3://{bucket}/a/b/run"
    files, objects = world.look()

    options = ("--local", "--bundle", bundle, "--endpoint-url", s3_server)
    code, *printed = command(job, f"s3://{bucket}/in", run, *options)
    assert code == (0 if job == "label" else 3), printed
    assert all(letter.isprintable() or letter == "\n" for letter in "".join(printed))
    files_after, objects_after = world.look()
    assert files_after == files, "something was written outside of the run"
    assert objects.items() <= objects_after.items(), "an object was replaced"
    written = objects_after.keys() - objects.keys()
    assert all(key.startswith("a/b/run/") for key in written)
    if where == "remote":
        fetch(s3_client, bucket, written, world.run)

    check_outputs(job, names, world.run)
    code, *printed = command("verify", run, "--deep", "--endpoint-url", s3_server)
    assert code == 0, printed


def check_outputs(job, names, run):
    """Every item is a result or a dead letter, and no two share a file anywhere."""
    found = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
    assert len({fold(str(path)) for path in found}) == len(found)
    results = [path for path in found if path.parts[0] in OUTPUTS]
    assert {len(path.parts) for path in results} == {2}
    assert not [path for path in results if path.name[0] in ".-~"]
    dead = letters(run / "dead_letter.parquet")
    if job == "label":
        assert (masks(run / "masks"), dead) == (names, {})
        return
    assert dead == {f"{key}.tif": "unsupported" for key in REFUSED}
    made = [RasterNames(output_name(name)) for name in names if name not in dead]
    expected = {name for one in made for name in (one.mask, one.classes, one.item)}
    assert {str(path) for path in results} == {*expected, COLLECTION}


def fetch(client, bucket, keys, folder):
    for key in keys:
        path = folder / key.removeprefix("a/b/run/")
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, key, str(path))


# One name for one raster

LETTERS = [
    "a",
    "A",
    "con",
    "~",
    ".",
    "/",
    "-",
    "%",
    "2",
    "F",
    "f",
    "\u00e9",
    "e\u0301",
    "\n",
]
ENDS = [".tif", ".TIF", ".Tif", ".tiff", ".tiff.tif", ".TIFF.tif", ".tif.tif", ""]


def odd_keys():
    draw = random.Random(4)
    short = ["".join(letters) for n in range(3) for letters in product(LETTERS, n)]
    long = ["".join(draw.choices(LETTERS, k=draw.randrange(190, 260))) for _ in range(200)]
    stems = [*short, *long, *KEYS, *(key.upper() for key in KEYS)]
    return {f"{stem}{end}" for stem in stems for end in ENDS}


def product(letters, count):
    return itertools.product(letters, repeat=count)


def test_no_two_keys_have_one_name():
    """Not even a key that is called like another one's output."""
    keys = odd_keys()
    keys |= {output_name(key) for key in keys}
    keys |= {f"{output_name(key)}f" for key in keys}
    names = [output_name(key) for key in keys]
    assert len({fold(name) for name in names}) == len(keys) > 2000


def test_a_name_is_one_part_of_a_path_everywhere():
    for key in odd_keys():
        name = output_name(key)
        assert name.isascii()
        assert name.isprintable()
        assert name.endswith(".tif")
        assert len(name) <= 240
        assert not set('/\\:*?"<>|') & set(name)
        assert name[0] not in ".-~"
        assert name.partition(".")[0].lower() not in {"con", "nul"}


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("scene.tif", "scene.tif"),
        ("scene.tiff", "scene.tiff.tif"),
        ("2024/tile 3.tif", "2024%2Ftile 3.tif"),
        ("\u00fcber.tif", "%C3%BCber.tif"),
        ("../scene.tif", "%2E.%2Fscene.tif"),
        ("-rf.tif", "%2Drf.tif"),
        ("N48E011.TIF", "N48E011-d987fab8798f464d.tif"),
    ],
)
def test_names_are_for_people(key, name):
    assert output_name(key) == name


# One part of a data set for one shard


def shard(*keys):
    items = [Item(uri=f"s3://b/{key}", key=key, size=1, etag="e") for key in keys]
    return Shard(index=0, items=tuple(items)).output_key("run")


def test_a_line_break_in_a_key_makes_no_shard_look_like_another():
    assert shard("a.png\ns3://b/b.png") != shard("a.png", "b.png")
