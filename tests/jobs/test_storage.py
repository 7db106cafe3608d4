import errno
import hashlib
import http.server
import os
import threading
import time
from pathlib import Path

import pytest

from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.patience import Patience
from jobs.storage import Access, Store, join, open_store, resolve

KEYS = [
    "plain.jpg",
    "with space .jpg",
    "\u00fcn\u00efc\u00f6d\u00e9 \u6771\u4eac.jpg",
    "a..b/..c.jpg",
    "[1].jpg",
    "100%25.jpg",
    "a+b&c=d#e?f.jpg",
    "x'y\"z\\.jpg",
    "dots.in.dir/.hidden/f.JPG",
    "~tilde/*.jpg",
]
BIG = 65 * 2**20
HASTE = Patience(budget_s=1.0, first_pause_s=0.05, connect_s=1.0, silence_s=1.0)


def code_of(caught):
    return caught.value.code


def compete(count, attempt):
    """Call ``attempt(i)`` in so many threads at once; the results in order."""
    gate = threading.Barrier(count)
    results = [None] * count

    def run(i):
        gate.wait()
        results[i] = attempt(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture
def give(tmp_path):
    """A local file of the given content, for a store to consume."""

    def make(data, name="given"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


# Creating: whole or not at all, and once.


def test_one_of_sixteen_creates(place):
    uri = place.at("deep", "object")
    won = compete(16, lambda i: place.store.create(uri, b"%d" % i * 1000))
    assert won.count(True) == 1
    assert won.count(False) == 15
    assert place.store.read(uri) == b"%d" % won.index(True) * 1000


def test_one_of_sixteen_creates_from_a_file(place, give):
    uri = place.at("deep", "object")
    paths = [give(b"%d" % i, f"given-{i}") for i in range(16)]
    won = compete(16, lambda i: place.store.create_from(uri, paths[i]))
    assert won.count(None) == 15
    winner = next(i for i in range(16) if won[i] is not None)
    assert place.store.read(uri) == b"%d" % winner
    assert won[winner] == place.store.stat(uri)
    assert not any(path.exists() for path in paths)


def test_creating_leaves_nothing_beside_the_object(place):
    for data in (b"first", b"second"):
        place.store.create(place.at("a", "object"), data)
    assert [found.uri for found in place.store.find(place.root)] == [
        place.at("a", "object")
    ]


def test_an_object_is_never_seen_in_part(place):
    """Look while it is written: it is absent, and then it is whole."""
    uri, data = place.at("object"), os.urandom(2**20) * 8
    seen = []
    stop = threading.Event()

    def look():
        while not stop.is_set():
            if place.store.exists(uri):
                seen.append(place.store.stat(uri).size)

    thread = threading.Thread(target=look)
    thread.start()
    place.store.create(uri, data)
    deadline = time.monotonic() + 30
    while not seen and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join()
    assert set(seen) == {len(data)}


@pytest.mark.parametrize("fails", ["os.fsync", "pathlib.Path.hardlink_to"])
def test_a_writer_that_fails_half_way_leaves_no_object(local, monkeypatch, fails):
    def fail(*_):
        raise OSError(28, "No space left on device")

    uri = local.at("object")
    with monkeypatch.context() as patch:
        patch.setattr(fails, fail)
        with pytest.raises(StoreError, match=r"object cannot be written: .*No space left"):
            local.store.create(uri, b"data")
    assert not local.store.exists(uri)
    assert local.store.create(uri, b"data")


def test_a_writer_that_fails_half_way_leaves_no_file(local, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(StoreError, match=r"object cannot be written: .*No space left"):
            local.store.create(local.at("object"), b"data")
    assert list(Path(local.root).iterdir()) == []


def test_a_file_from_another_file_system_is_copied(local, give, monkeypatch):
    link = Path.hardlink_to

    def across(self, target):
        if Path(target).name == "given":
            raise OSError(18, "Invalid cross-device link")
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", across)
    path = give(b"data")
    assert local.store.create_from(local.at("object"), path)
    assert local.store.read(local.at("object")) == b"data"
    assert not path.exists()
    assert not local.store.create_from(local.at("object"), give(b"later"))
    assert [one.name for one in Path(local.root).iterdir()] == ["object"]


def test_a_created_file_may_be_read_by_others(local, give):
    local.store.create(local.at("one"), b"")
    local.store.create_from(local.at("two"), give(b""))
    local.store.replace(local.at("three"), b"")
    modes = {
        Path(local.at(name)).stat().st_mode & 0o777 for name in ("one", "two", "three")
    }
    assert modes == {0o644}


@pytest.mark.parametrize("size", [0, 1, BIG], ids=["empty", "small", "multipart"])
def test_create_from_keeps_every_byte_and_takes_the_file(place, give, size):
    data = os.urandom(2**16) * -(-size // 2**16)
    data = data[:size]
    path = give(data)
    assert place.store.create_from(place.at("object"), path)
    assert not path.exists()
    assert place.store.read(place.at("object")) == data


def test_a_large_file_that_comes_second_changes_nothing(place, give):
    uri = place.at("object")
    place.store.create(uri, b"first")
    path = give(bytes(BIG))
    assert not place.store.create_from(uri, path)
    assert not path.exists()
    assert place.store.read(uri) == b"first"


@pytest.mark.s3
def test_a_lost_race_leaves_no_upload_behind(remote, give, s3_client):
    for i in range(2):
        remote.store.create_from(remote.at("object"), give(bytes([i]) * BIG))
    assert remote.store.read(remote.at("object"))[:1] == bytes([0])
    uploads = s3_client.list_multipart_uploads(Bucket=remote.root.removeprefix("s3://"))
    assert "Uploads" not in uploads


# Reading


@pytest.mark.parametrize("key", KEYS)
def test_odd_keys_work_everywhere(place, key):
    uri = place.at("source", key)
    assert not place.store.exists(uri)
    assert place.store.create(uri, b"data")
    assert place.store.read(uri) == b"data"
    stat = place.store.stat(uri)
    assert (stat.uri, stat.size) == (uri, 4)
    assert place.store.find(place.at("source")) == [stat]
    assert place.store.find(uri) == [stat]
    assert place.store.read(uri, etag=stat.etag) == b"data"
    place.store.delete(uri)
    assert not place.store.exists(uri)


def test_another_object_under_the_name_is_noticed(place):
    uri = place.at("object")
    place.store.create(uri, b"one")
    planned = place.store.stat(uri).etag
    place.store.replace(uri, b"two!")
    assert place.store.stat(uri).etag != planned
    with pytest.raises(ItemError) as caught:
        place.store.read(uri, etag=planned)
    assert code_of(caught) == "input_changed"
    assert caught.value.message == f"{uri} is not the object that was planned"
    assert place.store.read(uri) == b"two!"


def test_another_file_of_the_same_size_is_noticed(local):
    uri = local.at("object")
    local.store.create(uri, b"one")
    planned = local.store.stat(uri).etag
    os.utime(uri, ns=(0, 1))
    Path(uri).write_bytes(b"two")
    with pytest.raises(ItemError, match="input_changed"):
        local.store.read(uri, etag=planned)


@pytest.mark.parametrize("call", ["stat", "read"])
def test_what_is_not_there_is_not_found(place, call):
    place.store.create(place.at("object"), b"")
    for name in ("none", "object/below"):
        with pytest.raises(ItemError) as caught:
            getattr(place.store, call)(place.at(name))
        assert code_of(caught) == "not_found"
        assert caught.value.message == f"{place.at(name)} does not exist"


@pytest.mark.s3
@pytest.mark.parametrize("call", ["stat", "read"])
def test_a_bucket_that_is_not_there_is_not_found(remote, call):
    with pytest.raises(
        ItemError, match=r"not_found: s3://no-such-bucket-here/a does not exist"
    ):
        getattr(remote.store, call)("s3://no-such-bucket-here/a")
    assert remote.store.find("s3://no-such-bucket-here/a") == []


@pytest.mark.s3
@pytest.mark.parametrize("call", ["stat", "read"])
def test_a_bucket_is_no_object(remote, call):
    with pytest.raises(ItemError):
        getattr(remote.store, call)(remote.root)


@pytest.mark.s3
def test_a_bucket_name_that_cannot_be_is_refused(remote):
    with pytest.raises(InputError):
        remote.store.find("s3://No_Bucket!/a")


# Listing


def test_find_goes_to_full_depth_in_order(place):
    names = ["b.jpg", "a/z.jpg", "a/b/c.jpg", "a.jpg", "a/\u00fc.jpg"]
    for name in names:
        place.store.create(place.at("source", name), name.encode())
    found = place.store.find(place.at("source"))
    assert [one.uri for one in found] == sorted(place.at("source", name) for name in names)
    assert all(one == place.store.stat(one.uri) for one in found)


def test_find_stays_below_its_prefix(place):
    for name in ("a/1.jpg", "ab/2.jpg", "a.jpg"):
        place.store.create(place.at(name), b"")
    assert [one.uri for one in place.store.find(place.at("a"))] == [place.at("a/1.jpg")]
    assert place.store.find(place.at("none")) == []


@pytest.mark.s3
def test_find_lists_more_than_one_page(remote, s3_client):
    for i in range(12):
        remote.store.create(remote.at(f"{i}"), b"")
    page = s3_client.list_objects_v2(Bucket=remote.root.removeprefix("s3://"))
    assert page["IsTruncated"]
    assert len(remote.store.find(remote.root)) == 12


@pytest.mark.s3
def test_folder_markers_are_no_objects(remote, s3_client):
    bucket = remote.root.removeprefix("s3://")
    s3_client.put_object(Bucket=bucket, Key="source/", Body=b"")
    remote.store.create(remote.at("source", "a.jpg"), b"")
    assert [one.uri for one in remote.store.find(remote.at("source"))] == [
        remote.at("source", "a.jpg")
    ]


def test_the_head_of_an_object(place):
    place.store.create(place.at("a"), bytes(range(100)))
    assert place.store.read_head(place.at("a"), 7) == bytes(range(7))
    assert place.store.read_head(place.at("a"), 700) == bytes(range(100))
    with pytest.raises(ItemError) as caught:
        place.store.read_head(place.at("b"), 7)
    assert code_of(caught) == "not_found"


def test_a_file_that_vanishes_hides_no_other(local, monkeypatch):
    from jobs import disk

    stat = disk.stat_file

    def look(path):
        if path.name.startswith(".new-"):
            raise FileNotFoundError(path)
        return stat(path)

    local.store.create(local.at("a"), b"")
    local.store.create(local.at(".new-1"), b"")
    monkeypatch.setattr(disk, "stat_file", look)
    assert [one.uri for one in local.store.find(local.root)] == [local.at("a")]


def test_special_files_and_dead_links_are_passed_over(local):
    local.store.create(local.at("a.jpg"), b"")
    Path(local.at("dead.jpg")).symlink_to(local.at("none"))
    os.mkfifo(local.at("pipe.jpg"))
    assert [one.uri for one in local.store.find(local.root)] == [local.at("a.jpg")]


GLOBS = [
    ("source/*.jpg", ["a.jpg", "b.jpg"]),
    ("source/?.png", ["c.png"]),
    ("source/[ab].*", ["a.jpg", "b.jpg"]),
    ("source/*/*.jpg", ["deep/d.jpg"]),
    ("source/**/*.jpg", ["a.jpg", "b.jpg", "deep/d.jpg", "deep/er/e.jpg"]),
    ("source/**", ["a.jpg", "b.jpg", "c.png", "deep/d.jpg", "deep/er/e.jpg"]),
    ("s*/*.png", ["c.png"]),
    ("source/deep*/d.jpg", ["deep/d.jpg"]),
    ("source/*.tif", []),
    ("none/*.jpg", []),
]


@pytest.fixture
def sources(place):
    for name in ("a.jpg", "b.jpg", "c.png", "deep/d.jpg", "deep/er/e.jpg"):
        place.store.create(place.at("source", name), b"")
    return place


@pytest.mark.parametrize(("pattern", "expected"), GLOBS, ids=lambda value: str(value)[:20])
def test_globs(sources, pattern, expected):
    root, found = sources.store.match(sources.at(pattern))
    found = list(found)
    assert [one.uri for one in found] == [sources.at("source", name) for name in expected]
    assert all(one.uri.startswith(f"{root}/") for one in found)


@pytest.mark.parametrize(
    ("location", "root", "count"),
    [
        ("source", "source", 5),
        ("source/deep", "source/deep", 2),
        ("source/a.jpg", "source", 1),
    ],
)
def test_folders_and_files(sources, location, root, count):
    found_root, found = sources.store.match(sources.at(location))
    assert (found_root, len(list(found))) == (sources.at(root), count)


@pytest.mark.parametrize("name", ["[1].jpg", "what?.jpg", "a*.jpg"])
def test_a_file_that_looks_like_a_glob_is_itself(local, name):
    for other in ("1.jpg", "whatx.jpg", "ab.jpg", name):
        local.store.create(local.at(other), b"")
    _, found = local.store.match(local.at(name))
    assert [one.uri for one in found] == [local.at(name)]


@pytest.mark.s3
def test_an_object_that_looks_like_a_glob_is_itself(remote):
    remote.store.create(remote.at("[1].jpg"), b"")
    _, found = remote.store.match(remote.at("[1].jpg"))
    assert [one.uri for one in found] == [remote.at("[1].jpg")]


def test_two_stars_inside_a_name_are_refused_in_words(local):
    with pytest.raises(InputError):
        local.store.match(local.at("**.jpg"))


def test_a_path_that_is_not_there_is_refused_at_once(local):
    with pytest.raises(InputError, match=r"^nothing at .*/none; check the path$"):
        local.store.require(local.at("none"))
    local.store.create(local.at("a"), b"")
    for known in (local.root, local.at("a"), local.at("*.jpg"), "s3://bucket/none"):
        local.store.require(known)


# Listing more


def test_listing_one_by_one_gives_the_same(place):
    names = ["b.jpg", "a/z.jpg", "a/b/c.jpg", "a.jpg"]
    for name in names:
        place.store.create(place.at("source", name), b"")
    found = list(place.store.iterate(place.at("source")))
    assert sorted(found, key=lambda one: one.uri) == place.store.find(place.at("source"))
    assert list(place.store.iterate(place.at("none"))) == []
    assert list(place.store.iterate(place.at("source/a.jpg"))) == [
        place.store.stat(place.at("source/a.jpg"))
    ]


def test_objects_know_when_they_were_written(place):
    begin = time.time()
    place.store.create(place.at("a"), b"")
    (listed,) = place.store.find(place.root)
    for one in (listed, place.store.stat(place.at("a"))):
        assert one.modified.tzinfo is not None
        assert abs(one.modified.timestamp() - begin) < 60


@pytest.mark.s3
def test_a_bucket_is_listed_in_order_and_page_by_page(remote):
    names = [f"{i:02d}" for i in range(11)] + ["a/1", "a.1", "\u00fc", "Z"]
    for name in names:
        remote.store.create(remote.at(name), b"")
    keys = [
        one.uri.removeprefix(remote.at("")) for one in remote.store.iterate(remote.root)
    ]
    assert keys == sorted(names)
    first = next(remote.store.iterate(remote.root))
    assert first.uri == remote.at("00")


def test_folders_are_named_and_nothing_else(place):
    for name in [*(f"f{i}/a" for i in range(7)), "b/c/d", "file", "\u00fc n/a"]:
        place.store.create(place.at("run", name), b"")
    folders = sorted(["b", *(f"f{i}" for i in range(7)), "\u00fc n"])
    assert place.store.folders(place.at("run")) == folders
    assert place.store.folders(place.at("run", "b")) == ["c"]
    assert place.store.folders(place.at("run", "b", "c")) == []
    assert place.store.folders(place.at("none")) == []
    assert place.store.folders(place.root) == ["run"]


def test_local_folders_have_no_uploads(local):
    assert local.store.uploads(local.root) == []


# File systems that are poorer than they should be


@pytest.fixture
def without_links(monkeypatch):
    """As on FAT, or on many network drives."""

    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)


@pytest.mark.usefixtures("without_links")
def test_a_file_system_without_links_is_named(local, give):
    told = r"file system without hard links.*--config commit=single-driver"
    with pytest.raises(RunError, match=told):
        local.store.create(local.at("object"), b"data")
    with pytest.raises(RunError, match=told):
        local.store.create_from(local.at("object"), give(b"data"))
    with pytest.raises(RunError, match=told):
        local.store.probe(local.at("run"))
    assert local.store.find(local.root) == []


@pytest.mark.usefixtures("without_links")
def test_a_single_driver_needs_no_links(local, give):
    store = open_store(Access(commit="single-driver"))
    store.probe(local.at("run"))
    won = compete(16, lambda i: store.create(local.at("object"), b"%d" % i * 1000))
    assert won.count(True) == 1
    assert store.read(local.at("object")) == b"%d" % won.index(True) * 1000
    assert store.create_from(local.at("object"), give(b"another")) is None
    assert store.create_from(local.at("file"), give(b"data")).size == 4
    names = [one.uri for one in store.find(local.root)]
    assert names == [local.at("file"), local.at("object")]


def test_a_disk_that_fails_says_nothing_of_a_file(local, monkeypatch):
    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    local.store.create(local.at("a"), b"")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fail)
        with pytest.raises(StoreError, match=r"a cannot be read: .*Input/output error"):
            local.store.read(local.at("a"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", fail)
        with pytest.raises(StoreError, match="cannot be listed"):
            local.store.find(local.root)


def test_a_file_that_is_written_while_it_is_read_is_noticed(local, monkeypatch):
    uri = local.at("a")
    local.store.create(uri, b"planned")
    etag = local.store.stat(uri).etag
    look = os.fstat

    def change(descriptor):
        status = look(descriptor)
        with Path(uri).open("ab") as file:
            file.write(b"!")
        return status

    monkeypatch.setattr(os, "fstat", change)
    with pytest.raises(ItemError, match="input_changed"):
        local.store.read(uri, etag=etag)


def test_a_file_that_was_another_when_reading_began_is_noticed(local, monkeypatch):
    uri = local.at("a")
    local.store.create(uri, b"planned")
    planned = local.store.stat(uri)
    Path(uri).write_bytes(b"another")
    os.utime(uri, ns=(0, 1))
    look = os.fstat

    def set_back(descriptor):
        status = look(descriptor)
        os.utime(uri, ns=(0, int(planned.etag.split("-")[0], 16)))
        return status

    monkeypatch.setattr(os, "fstat", set_back)
    with pytest.raises(ItemError, match="input_changed"):
        local.store.read(uri, etag=planned.etag)
    assert local.store.stat(uri) == planned


def test_a_place_that_cannot_be_written_is_named(local, give):
    local.store.create(local.at("file"), b"")
    for uri in (local.at("file", "below"), local.at("x" * 300)):
        with pytest.raises(RunError, match=r"cannot be written: "):
            local.store.create(uri, b"")
        with pytest.raises(RunError, match=r"cannot be written: "):
            local.store.probe(uri)
        with pytest.raises(RunError, match=r"cannot be written: "):
            local.store.create_from(uri, give(b""))


def test_a_probe_leaves_nothing_behind(place):
    place.store.probe(place.at("run"))
    assert place.store.find(place.at("run")) == []
    assert place.store.folders(place.at("run")) == []


# Adopting and replacing


def test_the_same_bytes_are_adopted(place, give):
    made = place.store.create_from(place.at("a"), give(b"data"))
    again = place.store.create_from(place.at("a"), give(b"data"))
    assert made == again == place.store.stat(place.at("a"))
    assert made.sha256 == again.sha256 == hashlib.sha256(b"data").hexdigest()
    assert place.store.create_from(place.at("a"), give(b"DATA")) is None


def test_one_of_sixteen_replaces_what_it_knew(place, give):
    place.store.create(place.at("a"), b"first")
    etag = place.store.stat(place.at("a")).etag
    paths = [give(b"later %d" % i, f"given-{i}") for i in range(16)]

    def replace(i):
        return place.store.replace_from(place.at("a"), paths[i], match=etag)

    won = compete(16, replace)
    assert won.count(None) == 15
    winner = next(i for i in range(16) if won[i] is not None)
    assert place.store.read(place.at("a")) == b"later %d" % winner
    assert not any(path.exists() for path in paths)
    assert won[winner] == place.store.stat(place.at("a"))


def test_what_is_gone_is_not_replaced(place, give):
    path = give(b"data")
    assert place.store.replace_from(place.at("a", "b"), path, match="0-0") is None
    assert not path.exists()
    assert not place.store.exists(place.at("a", "b"))
    assert place.store.replace_from(place.at("a", "b"), give(b"data"), match=None).size == 4
    assert place.store.read(place.at("a", "b")) == b"data"


# Views, temporary files, locations


def test_replace_writes_again(place):
    uri = place.at("deep", "summary.json")
    for data in (b"one", b"two!", b""):
        place.store.replace(uri, data)
        assert place.store.read(uri) == data
    assert len(place.store.find(place.root)) == 1


def test_delete_is_done_once_or_twice(place):
    uri = place.at("object")
    place.store.create(uri, b"")
    for _ in range(2):
        place.store.delete(uri)
    assert not place.store.exists(uri)


def test_scratch_lies_beside_a_local_run(local):
    scratch = local.store.scratch(local.at("run", ".scratch"))
    assert scratch == Path(local.at("run", ".scratch"))
    (scratch / "in use").touch()
    local.store.sweep(str(scratch))
    assert scratch.is_dir()
    (scratch / "in use").unlink()
    local.store.sweep(str(scratch))
    assert not scratch.exists()
    local.store.sweep(str(scratch))


def test_a_bucket_has_no_scratch():
    store = open_store(Access())
    assert store.scratch("s3://bucket/run/.scratch") is None
    store.sweep("s3://bucket/run/.scratch")


def test_locations_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    table = {
        "a/b": f"{tmp_path}/a/b",
        "a/../b/": f"{tmp_path}/b",
        "~/a": "/home/me/a",
        "/x//y/": "/x/y",
        "s3://bucket/a/../b": "s3://bucket/a/../b",
    }
    assert {given: resolve(given) for given in table} == table


def test_a_slash_at_the_end_of_a_prefix_says_nothing():
    assert resolve("s3://bucket/prefix/") == resolve("s3://bucket/prefix")


@pytest.mark.parametrize(
    "location", ["gs://bucket/a", "http://host/a", "file:///a", "S3://b"]
)
def test_other_stores_are_refused(location):
    with pytest.raises(
        InputError, match=rf"^location must be a path or s3://bucket/key, got {location}$"
    ):
        resolve(location)


def test_join():
    assert join("s3://b/run/", "ledger", "0") == "s3://b/run/ledger/0"
    assert join("/run") == "/run"


def test_a_process_has_one_store_for_one_access():
    assert open_store(Access()) is open_store(Access())
    assert open_store(Access()) is not open_store(Access(anon=True))


# Servers that do not answer as they should


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:9000", "localhost", "ftp://host", "http://", "s3://b"]
)
def test_a_wrong_endpoint_is_refused(url):
    with pytest.raises(
        InputError, match=rf"^endpoint URL must look like https://host\[:port\], got {url}$"
    ):
        Access(endpoint_url=url)


@pytest.fixture
def nobody(monkeypatch):
    """A store whose server does not answer, and little patience with it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    return Store(Access(endpoint_url="http://127.0.0.1:1"), HASTE)


@pytest.mark.s3
@pytest.mark.timeout(20)
def test_a_server_that_does_not_answer_is_named(nobody):
    with pytest.raises(
        StoreError,
        match=r"^s3://bucket/source: http://127.0.0.1:1 does not do list_objects_v2 .* "
        r"check the network and --endpoint-url, then give the same command again$",
    ):
        nobody.find("s3://bucket/source")


@pytest.mark.s3
@pytest.mark.timeout(20)
@pytest.mark.parametrize("call", ["stat", "read"])
def test_a_server_that_does_not_answer_says_nothing_of_an_object(nobody, call):
    with pytest.raises(StoreError, match=r"^s3://bucket/object: .* tries in \d+ s"):
        getattr(nobody, call)("s3://bucket/object")


@pytest.fixture
def scripted(monkeypatch):
    """An S3 server that gives one answer to every request."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    servers = []

    def serve(status, body=b"", *, head=None, patience=None, **headers):
        class Answer(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                about = self.command == "HEAD"
                self.send_response(head if about and head else status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                if not about:
                    self.wfile.write(body)

            do_GET = do_HEAD = do_PUT = answer  # noqa: N815 - named by http.server

            def log_message(self, *_):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        access = Access(endpoint_url=f"http://127.0.0.1:{server.server_port}")
        return Store(access, patience or Patience())

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def refusal(code):
    return f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()


@pytest.mark.s3
def test_a_listing_that_is_forbidden_is_named(scripted):
    store = scripted(403, refusal("AccessDenied"))
    with pytest.raises(
        InputError,
        match=r"s3://bucket/a may not be listed \(.*check the credentials or --anon",
    ):
        store.find("s3://bucket/a")


@pytest.mark.s3
@pytest.mark.parametrize("call", ["stat", "read"])
def test_an_object_that_is_forbidden_is_named(scripted, call):
    store = scripted(403, refusal("AccessDenied"))
    with pytest.raises(ItemError, match=r"^forbidden: s3://bucket/a may not be read$"):
        getattr(store, call)("s3://bucket/a")


@pytest.mark.s3
def test_a_server_that_fails_says_nothing_of_an_object(scripted):
    store = scripted(500, refusal("InternalError"), patience=HASTE)
    with pytest.raises(StoreError, match=r"^s3://bucket/a: .* \(500 InternalError, no; "):
        store.read("s3://bucket/a")


@pytest.mark.s3
@pytest.mark.parametrize("body", [refusal("PreconditionFailed"), b""], ids=["xml", "none"])
@pytest.mark.parametrize("call", ["create", "create_from"])
def test_a_lost_race_is_known_by_its_status_alone(scripted, give, call, body):
    store = scripted(412, body, head=200, ETag='"e"')
    data = b"data" if call == "create" else give(b"data")
    assert not getattr(store, call)("s3://bucket/a", data)
