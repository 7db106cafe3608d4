import os

import pytest

from jobs.errors import InputError
from jobs.inputs.sources import IMAGE_SUFFIXES, RASTER_SUFFIXES, find_items

NAMES = [
    "b.JPG",
    "a.jpg",
    "deep/er/c.Tiff",
    "deep/d.png",
    "notes.doc",
    ".e.jpg",
    "f.svg",
    "g",
]


@pytest.fixture
def source(place):
    for name in NAMES:
        place.store.create(place.at("source", name), name.encode())
    return place


def keys(place, location, suffixes=IMAGE_SUFFIXES, limit=None):
    items = find_items(place.store, place.at(location), suffixes, limit=limit)
    return [item.key for item in items]


def test_a_folder_gives_what_counts_in_order(source):
    assert keys(source, "source") == ["a.jpg", "b.JPG", "deep/d.png", "deep/er/c.Tiff"]


def test_rasters_are_geotiffs(source):
    assert keys(source, "source", RASTER_SUFFIXES) == ["deep/er/c.Tiff"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("source/deep", ["d.png", "er/c.Tiff"]),
        ("source/*", ["a.jpg", "b.JPG"]),
        ("source/**", ["a.jpg", "b.JPG", "deep/d.png", "deep/er/c.Tiff"]),
        ("source/deep/*.png", ["d.png"]),
        ("source/[ab].*", ["a.jpg", "b.JPG"]),
        ("source/a.jpg", ["a.jpg"]),
    ],
)
def test_keys_are_below_the_source(source, location, expected):
    assert keys(source, location) == expected


@pytest.mark.parametrize("name", ["notes.doc", "g", ".e.jpg", "f.svg"])
def test_one_named_file_always_counts(source, name):
    assert keys(source, f"source/{name}") == [name]


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (9, 4), (None, 4)])
def test_the_limit_takes_the_first(source, limit, count):
    assert keys(source, "source", limit=limit) == keys(source, "source")[:count]


def test_an_item_says_what_the_store_says(source):
    (item,) = find_items(
        source.store, source.at("source/a.jpg"), IMAGE_SUFFIXES, limit=None
    )
    stat = source.store.stat(source.at("source/a.jpg"))
    assert (item.uri, item.size, item.etag) == (stat.uri, stat.size, stat.etag)


@pytest.mark.parametrize(
    "location", ["none", "source/none", "source/*.bmp", "none/**/*.jpg"]
)
def test_nothing_there_is_said_in_one_line(source, location):
    with pytest.raises(InputError) as caught:
        keys(source, location)
    where = source.at(location)
    assert (
        str(caught.value) == f"nothing at {where}; check the path, the prefix or the glob"
    )


def test_nothing_that_counts_is_said_in_one_line(place):
    for name in ("notes.txt", ".hidden.tif"):
        place.store.create(place.at("source", name), b"")
    with pytest.raises(InputError) as caught:
        keys(place, "source", RASTER_SUFFIXES)
    assert str(caught.value) == (
        f"no input under {place.at('source')} among 2 objects; "
        "what counts ends in .tif, .tiff"
    )


def test_a_name_that_is_not_utf8_is_refused_by_its_name(local):
    local.store.create(local.at("source", os.fsdecode(b"\xff.jpg")), b"")
    with pytest.raises(InputError, match=r"file names must be UTF-8, got .*udcff.jpg"):
        list(find_items(local.store, local.at("source"), IMAGE_SUFFIXES, limit=None))
