"""The standard library's tarfile packs, and is the twin of what reads the headers."""

import contextlib
import io
import itertools
import random
import tarfile
from types import SimpleNamespace

import pytest

from jobs.errors import InputError, ItemError, StoreError
from jobs.inputs import packed
from jobs.inputs.packed import find_images, refresh_image
from jobs.inputs.parts import GAP, RANGE, join_pieces, read_part
from jobs.inputs.tar_headers import EndError, read_members
from jobs.shards import Shard, plan_shards

SUFFIXES = (".jpg", ".png")
FORMATS = {
    "ustar": tarfile.USTAR_FORMAT,
    "gnu": tarfile.GNU_FORMAT,
    "pax": tarfile.PAX_FORMAT,
}


def pack(members, form=tarfile.PAX_FORMAT, **about):
    """A tar of names and bytes; of a ``TarInfo`` as it is."""
    file = io.BytesIO()
    options = {"encoding": "utf-8", "errors": "surrogateescape"}
    with tarfile.open(fileobj=file, mode="w", format=form, **options) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in about.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def special(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def headers(data):
    """What is read of some bytes, and each fetch."""
    fetched = []

    def fetch(start, size):
        fetched.append((start, size))
        return data[start : start + size]

    return list(read_members(fetch, len(data))), fetched


def items_of(place, data, name="source/x.tar"):
    place.store.create(place.at(name), data)
    return list(find_images(place.store, place.at(name), SUFFIXES))


def shard_of(items):
    return Shard(index=0, items=tuple(items))


def read_all(place, items):
    """Bytes, or the reason, of each item; all read for one shard."""
    shard, found = shard_of(items), {}
    for item in items:
        try:
            found[item.key] = read_part(place.store, shard, item)[0]
        except ItemError as error:
            found[item.key] = error.code
    return found


# Headers


def any_members(seed, longest):
    picks = random.Random(seed)
    for number in range(120):
        name = "é " * picks.randrange(2) + "n" * picks.randrange(1, longest) + str(number)
        name = "d/" * picks.randrange(3) + name
        size = picks.choice([0, 1, 511, 512, 513, 70_000])
        kinds = [tarfile.REGTYPE] * 8 + [tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE]
        kind = picks.choice(kinds)
        if kind == tarfile.REGTYPE:
            yield name, bytes([number]) * size
        else:
            yield special(name, kind, "t" * picks.randrange(1, longest))


@pytest.mark.parametrize("form", FORMATS)
def test_headers_are_those_that_tarfile_reads(form):
    longest = 70 if form == "ustar" else 300
    data = pack(any_members(form, longest), FORMATS[form])
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        expected = [
            (
                one.name.encode(),
                one.isreg() and (one.offset_data, one.size),
                (one.isdir(), one.issym() or one.islnk()),
            )
            for one in tar
        ]
    found, _ = headers(data)
    assert [
        (
            one.name.rstrip(b"/"),
            one.kind == "file" and (one.at, one.size),
            (one.kind == "folder", one.kind == "link"),
        )
        for one in found
    ] == expected
    assert [one.number for one in found] == list(range(120))


def test_sizes_of_many_gigabytes_are_read_in_both_ways():
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("large.jpg")
        info.size = 20 * 2**30
        data = info.tobuf(form)
        with pytest.raises(EndError, match="ends at byte"):
            headers(data)
        member = next(read_members(lambda a, n, data=data: data[a : a + n], len(data)))
        assert member.size == 20 * 2**30


def test_sparse_files_are_known_by_their_header():
    info = tarfile.TarInfo("holes.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    old = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    old[482] = 1  # a block of the map follows
    old[148:156] = b"%06o\0 " % (sum(old[:148]) + 8 * 32 + sum(old[156:512]))
    data = bytes(old) + bytes(512) + pack([("a.jpg", b"1")])
    found, _ = headers(data)
    assert [(one.name, one.kind) for one in found] == [
        (b"holes.jpg", "sparse"),
        (b"a.jpg", "file"),
    ]
    newer = pack([("b.jpg", b"1")], pax_headers={"GNU.sparse.name": "real.jpg"})
    ((name, kind),) = [(one.name, one.kind) for one in headers(newer)[0]]
    assert (name, kind) == (b"real.jpg", "sparse")


def test_small_members_come_many_in_one_request():
    data = pack([(f"{number:05d}.jpg", b"x" * 900) for number in range(1500)])
    found, fetched = headers(data)
    assert len(found) == 1500
    assert len(fetched) < 20
    # Nothing is asked for twice.
    for (start, size), (after, _) in itertools.pairwise(fetched):
        assert after >= start + size - 512


def test_large_members_are_jumped_over():
    data = pack([(f"{number}.jpg", b"x" * 300_000) for number in range(20)])
    found, fetched = headers(data)
    assert len(found) == 20
    assert len(fetched) <= 22
    assert sum(size for _, size in fetched) < len(data) / 50


@pytest.mark.parametrize("at", [0, 3])
def test_what_is_no_header_ends_the_tar(at):
    members = [(f"{number}.jpg", b"x") for number in range(6)]
    data = bytearray(pack(members))
    data[at * 1024 + 5] ^= 1
    with pytest.raises(EndError, match=f"no header at byte {at * 1024}") as caught:
        headers(bytes(data))
    assert (caught.value.code, caught.value.number) == ("undecodable", at)


@pytest.mark.parametrize("seed", range(40))
def test_noise_never_crashes_nor_hangs(seed):
    picks = random.Random(seed)
    data = bytearray(pack(any_members(seed, 150), picks.choice([1, 2])))
    for _ in range(picks.randrange(1, 30)):
        data[picks.randrange(len(data))] = picks.randrange(256)
    data = bytes(data[: picks.randrange(len(data))])
    with contextlib.suppress(EndError):
        assert headers(data)[0] is not None


def test_a_long_header_is_not_read():
    info = tarfile.TarInfo("a.jpg")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2**40
    data = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(EndError, match="at most 65536 are read"):
        headers(data)


# Items


def test_members_are_items_with_what_lies_beside_them(place):
    items = items_of(
        place,
        pack(
            [
                ("cats/1.jpg", b"one"),
                ("cats/1.json", b'{"a": 1}'),
                ("cats/1.cls", b"7"),
                ("cats/1.npy", b"no text"),
                ("cats/2.seg.txt", b"caf\xc3\xa9 \xff"),
                ("cats/2.png", b"two"),
                ("dogs/1.txt", b"of another folder"),
            ]
        ),
    )
    assert [item.key for item in items] == ["x.tar/cats/1.jpg", "x.tar/cats/2.png"]
    shard = shard_of(items)
    assert [read_part(place.store, shard, item) for item in items] == [
        (b"one", {"json": '{"a": 1}', "cls": "7"}),
        (b"two", {"seg.txt": "café \ufffd"}),
    ]
    stat = place.store.stat(place.at("source/x.tar"))
    assert {item.etag for item in items} == {stat.etag}
    assert [item.size for item in items] == [3, 3]


ODD_NAMES = {
    "../../etc/passwd.jpg": "%2E%2E/%2E%2E/etc/passwd.jpg",
    "/root/a.jpg": "/root/a.jpg",
    "./b.jpg": "b.jpg",
    "with space: and colon.jpg": "with space: and colon.jpg",
    "straße/日本.jpg": "straße/日本.jpg",
    "line\nbreak.jpg": "line%0Abreak.jpg",
    "bad\udcff.jpg": "bad%FF.jpg",
    "s3://other/c.jpg": "s3://other/c.jpg",
    "LOUD.JPG": "LOUD.JPG",
}


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_odd_names_are_names_and_never_paths(place, form):
    given = [name for name in ODD_NAMES if form == "gnu" or name.isprintable()]
    data = pack(
        [(name, name.encode("utf-8", "surrogateescape")) for name in given], FORMATS[form]
    )
    items = items_of(place, data)
    assert [item.key for item in items] == [f"x.tar/{ODD_NAMES[name]}" for name in given]
    assert all(item.uri.isprintable() and item.uri.encode() for item in items)
    assert sorted(item.uri for item in items) == [item.uri for item in items]
    assert list(read_all(place, items).values()) == [
        name.encode("utf-8", "surrogateescape") for name in given
    ]


def test_what_is_no_image_alone_is_a_dead_letter(local):
    items = items_of(
        local,
        pack(
            [
                ("a.jpg", b"1"),
                ("a.jpg", b"2"),
                special("link.jpg", tarfile.SYMTYPE, "a.jpg"),
                special("hard.jpg", tarfile.LNKTYPE, "a.jpg"),
                special("pipe.jpg", tarfile.FIFOTYPE),
                special("folder.jpg", tarfile.DIRTYPE),
                ("n" * 3000 + ".jpg.jpg", b""),
                ("._a.jpg", b"of macOS"),
                ("empty.jpg", b""),
                ("notes.txt", b"no image"),
            ]
        ),
    )
    found = [
        (item.key[:14], item.part.refusal and item.part.refusal.code) for item in items
    ]
    assert found == [
        ("x.tar/a.jpg", None),
        ("x.tar/a.jpg#1", "unsupported"),
        ("x.tar/link.jpg", "unsupported"),
        ("x.tar/hard.jpg", "unsupported"),
        ("x.tar/pipe.jpg", "unsupported"),
        ("x.tar/nnnnnnnn", "unsupported"),
        ("x.tar/empty.jp", None),
    ]
    assert len({item.uri for item in items}) == len(items) == len({i.key for i in items})
    assert read_all(local, items)["x.tar/empty.jpg"] == b""


MEMBERS = [(f"{number}.jpg", bytes([number]) * 700) for number in range(4)]


@pytest.mark.parametrize(
    ("cut", "whole", "dead"),
    [
        (3 * 1536 + 512 + 1, 3, "x.tar/3.jpg"),  # in the data of the last one
        (3 * 1536 + 512, 3, "x.tar/3.jpg"),  # of which not a byte is left
        (3 * 1536 + 512 + 700, 4, "x.tar"),  # behind its data
        (3 * 1536 + 100, 3, "x.tar"),  # in its header
        (3 * 1536, 3, "x.tar"),  # before it
        (1, 0, "x.tar"),
    ],
)
def test_a_tar_that_is_cut_short_says_so_once(place, cut, whole, dead):
    *items, last = items_of(place, pack(MEMBERS, tarfile.GNU_FORMAT)[:cut])
    assert list(read_all(place, items).values()) == [data for _, data in MEMBERS[:whole]]
    assert (last.key, last.part.refusal.code) == (dead, "truncated")


def test_a_cut_sidecar_costs_the_end_and_not_the_image(local):
    data = pack([("a.jpg", b"1"), ("a.json", b"x" * 600)], tarfile.GNU_FORMAT)[:2048]
    image, end = items_of(local, data)
    assert read_part(local.store, shard_of([image]), image) == (b"1", {})
    assert end.part.refusal.code == "truncated"


def test_a_damaged_header_costs_what_follows(local):
    data = bytearray(pack(MEMBERS, tarfile.GNU_FORMAT))
    data[2 * 1536] ^= 1
    *items, end = items_of(local, bytes(data))
    assert len(items) == 2
    assert (end.uri.rpartition("#")[2], end.part.refusal.code) == (
        "0000000002",
        "undecodable",
    )
    assert end.part.refusal.message.endswith("what may lie behind is not known")


def test_an_empty_object_and_a_missing_one_are_dead_letters(local):
    local.store.create(local.at("source/empty.tar"), b"")
    local.store.create(local.at("x.txt"), b"source/empty.tar\nsource/none.tar\n")
    items = list(find_images(local.store, local.at("x.txt"), SUFFIXES))
    assert [(item.key, item.part.refusal.code) for item in items] == [
        ("empty.tar", "truncated"),
        ("none.tar", "not_found"),
    ]


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_refused_in_words(local, kind):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=f"w:{kind}") as tar:
        tar.addfile(tarfile.TarInfo("a.jpg"))
    (item,) = items_of(local, file.getvalue())
    assert item.part.refusal.code == "unsupported"
    assert "unpack it to a plain .tar" in item.part.refusal.message
    local.store.create(local.at(f"more/y.tar.{kind}"), file.getvalue())
    (beside,) = find_images(local.store, local.at("more"), SUFFIXES)
    assert "unpack it to a .tar" in beside.part.refusal.message
    with pytest.raises(InputError, match="compressed as a whole; unpack it"):
        list(find_images(local.store, local.at(f"more/y.tar.{kind}"), SUFFIXES))


def test_tars_and_images_of_a_folder_come_in_order(place):
    one = pack([("b.jpg", b"1"), ("a.jpg", b"2")])
    for name in ("a.tar", "z/deep.tar"):
        place.store.create(place.at("source", name), one)
    for name in ("a.jpg", "a.tar .jpg", "a.tar-1.jpg", "b.jpg", "notes.md"):
        place.store.create(place.at("source", name), b"")
    items = list(find_images(place.store, place.at("source"), SUFFIXES))
    assert [item.uri for item in items] == sorted(item.uri for item in items)
    assert sorted(item.key for item in items) == [
        "a.jpg",
        "a.tar .jpg",
        "a.tar-1.jpg",
        "a.tar/a.jpg",
        "a.tar/b.jpg",
        "b.jpg",
        "z/deep.tar/a.jpg",
        "z/deep.tar/b.jpg",
    ]
    few = list(find_images(place.store, place.at("source"), SUFFIXES, limit=4))
    assert few == items[:4]


def test_an_object_that_is_called_like_a_member_is_refused(local):
    local.store.create(local.at("source/a.tar"), pack([("a.jpg", b"1")]))
    local.store.create(local.at("source/a.tar#0000000000/a.jpg"), b"")
    with pytest.raises(InputError, match="two inputs are called"):
        list(find_images(local.store, local.at("source"), SUFFIXES))


def test_a_tar_without_images_is_said_in_one_line(local):
    with pytest.raises(InputError, match=r"no image under .*/x.tar; images end in .jpg"):
        items_of(local, pack([("a.txt", b"")]))


def test_many_tars_are_opened_ahead_and_come_in_order(local, monkeypatch):
    monkeypatch.setattr(packed, "_FIRST", 3)
    for number in range(30):
        members = [(f"{n}.jpg", bytes([number, n])) for n in range(8)]
        local.store.create(local.at(f"source/{number:02d}.tar"), pack(members))
    items = list(find_images(local.store, local.at("source"), SUFFIXES))
    assert [item.key for item in items] == [
        f"{number:02d}.tar/{n}.jpg" for number in range(30) for n in range(8)
    ]


def test_names_are_known_again_however_many_there_are(monkeypatch):
    from jobs.inputs import tars

    monkeypatch.setattr(tars, "_RECENT", 10)
    seen = tars._Seen()
    assert not any(seen.has(f"{number}.jpg") for number in range(1000))
    assert all(seen.has(f"{number}.jpg") for number in range(1000))


# Reading


def test_neighbours_are_fetched_together():
    pieces = [(0, 100), (600, 100), (700 + GAP, 50), (2**24, RANGE + 5), (0, 100)]
    ranges = join_pieces(pieces)
    assert ranges[0, 100] is ranges[600, 100] is ranges[700 + GAP, 50]
    assert (ranges[0, 100].start, ranges[0, 100].end) == (0, 750 + GAP)
    assert ranges[0, 100].left == 4
    # Of what has no bytes nobody is waited for.
    assert join_pieces([(0, 100), (600, 0)])[0, 100].left == 1
    large = ranges[2**24, RANGE + 5]
    assert (large.start, large.end) == (2**24, 2**24 + RANGE + 5)


def test_a_shard_is_read_in_few_requests_and_held_no_longer(local, monkeypatch):
    members = [(f"{number:03d}.jpg", bytes([number]) * 3000) for number in range(200)]
    items = items_of(local, pack(members))
    shards = list(plan_shards(items, max_items=50, max_bytes=10**9))
    assert [len(shard.items) for shard in shards] == [50] * 4
    asked, read = [], local.store.read_part

    def count(uri, start, size, *, etag):
        asked.append((start, size))
        return read(uri, start, size, etag=etag)

    monkeypatch.setattr(local.store, "read_part", count)
    for shard in shards:
        for item in shard.items:
            number = int(item.key[-7:-4])
            assert read_part(local.store, shard, item)[0] == bytes([number]) * 3000
    assert len(asked) == 4
    # One that is asked for again, as after a death, is read again.
    last = shards[-1]
    assert read_part(local.store, last, last.items[7])[0] == bytes([157]) * 3000
    assert len(asked) == 5
    for item in last.items:
        read_part(local.store, last, item)
    assert len(asked) <= 6


def test_a_tar_that_changed_is_never_mixed_in(place):
    items = items_of(place, pack(MEMBERS))
    place.store.replace(place.at("source/x.tar"), pack(MEMBERS * 2))
    assert set(read_all(place, items).values()) == {"input_changed"}
    again = refresh_image(place.store, items[0])
    assert again.part.refusal.code == "input_changed"
    place.store.delete(place.at("source/x.tar"))
    assert set(read_all(place, items).values()) == {"not_found"}
    assert refresh_image(place.store, items[0]) == items[0]


def test_a_store_that_fails_may_be_asked_again(local, monkeypatch):
    items = items_of(local, pack(MEMBERS))
    shard, read = shard_of(items), local.store.read_part

    def fail(*_, **__):
        raise StoreError("down")

    monkeypatch.setattr(local.store, "read_part", fail)
    with pytest.raises(StoreError):
        read_part(local.store, shard, items[0])
    monkeypatch.setattr(local.store, "read_part", read)
    assert read_part(local.store, shard, items[0])[0] == bytes(700)


def test_a_member_behind_the_end_is_cut(local):
    items = items_of(local, pack(MEMBERS))
    short = SimpleNamespace(read_part=lambda *_, **__: b"\0" * 10)
    with pytest.raises(ItemError) as caught:
        read_part(short, shard_of(items), items[0])
    assert caught.value.code == "truncated"
