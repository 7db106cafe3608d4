"""Ids and colours of a truth become a bundle's classes, or are refused."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deeplab.bundle import Bundle, ClassInfo
from jobs.errors import CODES, InputError, ItemError
from jobs.truth import Truth
from jobs.truth_map import CITYSCAPES, IGNORE, canonical_map, make_map


@pytest.fixture(scope="module")
def bundle():
    colors = {"water": (0, 0, 255), "road": (128, 64, 128), "low trees": (0, 255, 0)}
    return Bundle(
        architecture="linear",
        classes=tuple(ClassInfo(name=n, color=c) for n, c in colors.items()),
        bands=("red", "green", "blue"),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )


def make(bundle, text="", plain=None, **truth):
    return make_map(Truth(classes=canonical_map(text, bundle), **truth), bundle, plain)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("3=0", {"3": 0}),
        (" 3 = low trees , 7=1,*=ignore", {"3": 2, "7": 1, "*": 254}),
        ("#9B9b9b=Ignore,07=255", {"#9b9b9b": 254, "7": 254}),
        ('{"3": 0, "#3c1098": "road", "*": null}', {"3": 0, "#3c1098": 1, "*": 254}),
        (
            (
                '{"classes": [{"title": "ROAD", "color": "#111111", "shape": "polygon"}, '
                '{"name": "water", "color": "#222222"}]}'
            ),
            {"#111111": 1, "#222222": 0},
        ),
        (
            (
                '{"classes": [{"title": "a", "color": "#111111"}, {"title": "b", "color": '
                '"#222222"}, {"title": "c", "color": "#333333"}]}'
            ),
            {"#111111": 0, "#222222": 1, "#333333": 2},
        ),
        (
            (
                '{"classes": [{"title": "Unlabeled", "color": "#111111"}, '
                '{"title": "Road", "color": "#222222"}]}'
            ),
            {"#111111": 254, "#222222": 1},
        ),
    ],
)
def test_maps_are_read(bundle, text, expected):
    found = canonical_map(text, bundle)
    assert (json.loads(found) if found else "") == expected
    assert canonical_map(found, bundle) == found, "what is canonical stays as it is"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("3", "an id, #rrggbb or * and then a class of the bundle or ignore"),
        ("3=0,,4=1", "got '3=0,,4=1'"),
        ("x=0", "got 'x' for an id, which is 0 to 65535"),
        ("65536=0", "got '65536' for an id"),
        ("-1=0", "got '-1' for an id"),
        ("#12345=0", "got '#12345' for an id"),
        ("3=sky", "got 'sky'; it has 0 water, 1 road, 2 low trees"),
        ("3=3", "got '3'; it has 0 water"),
        ("3=", "got ''; it has 0 water"),
        ("3=0,03=1", "names 3 twice; keep one"),
        ("*=0", "may give * to ignore alone"),
        ("{3: 0}", "this is no JSON"),
        ("{" * 9999, "this is no JSON"),
        ('{"3": true}', "got 'True'"),
        ('{"3": [1]}', "got '[1]'"),
        ('{"classes": [{"title": "road"}]}', "a color, got one without 'color'"),
        ('{"classes": ["road"]}', "a title or name, and a color"),
        (
            (
                '{"classes": [{"title": "road", "color": "#111111"}, {"title": "sky", '
                '"color": "#222222"}]}'
            ),
            "the bundle has no class sky",
        ),
    ],
)
def test_a_map_that_makes_no_sense_is_refused(bundle, text, words):
    with pytest.raises(InputError) as caught:
        canonical_map(text, bundle)
    assert words in str(caught.value)


@given(
    ids=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    pairs=st.dictionaries(st.integers(0, 300), st.sampled_from([0, 1, 2, "ignore"])),
    ignored=st.sets(st.integers(0, 300), max_size=3),
    others=st.booleans(),
)
def test_ids_are_what_the_map_says(bundle, ids, pairs, ignored, others):
    text = ",".join([*(f"{k}={v}" for k, v in pairs.items()), *["*=ignore"] * others])
    lookup = make(bundle, text, ignore=tuple(ignored))
    table = {254: "ignore", 255: "ignore"} | (pairs or {0: 0, 1: 1, 2: 2})
    table |= dict.fromkeys(ignored, "ignore")
    expected = [table.get(one, "ignore" if others else None) for one in ids]
    raw = np.array(ids, np.uint16)
    if None in expected:
        first = min(one for one, name in zip(ids, expected, strict=True) if name is None)
        with pytest.raises(ItemError, match=rf"^wrong_truth: id {first} \(\d+ px\)"):
            lookup.of_ids(raw)
        return
    found = [IGNORE if name == "ignore" else name for name in expected]
    assert lookup.of_ids(raw).tolist() == found


def test_an_unknown_id_says_what_to_do(bundle):
    with pytest.raises(ItemError) as caught:
        make(bundle).of_ids(np.array([[0, 9, 9], [7, 11, 12]], np.uint8))
    assert caught.value.code == "wrong_truth"
    assert caught.value.code in CODES
    assert caught.value.message == (
        "id 7 (1 px), 9 (2 px), 11 (1 px) and 1 more is no class; map it with "
        "-c truth_classes=7=CLASS or =ignore, or *=ignore for all others"
    )


def test_colors_are_those_of_the_bundle_or_of_the_map(bundle):
    pixels = np.array([(0, 0, 255), (128, 64, 128)], np.uint8).T[:, None]
    assert make(bundle).of_colors(pixels).tolist() == [[0, 1]]
    lookup = make(bundle, "#0000ff=low trees,*=ignore")
    assert lookup.of_colors(pixels).tolist() == [[2, IGNORE]]
    assert lookup.by_color
    with pytest.raises(ItemError, match=r"colour #804080 \(1 px\) is no class"):
        make(bundle, "#0000ff=2").of_colors(pixels)


def test_cityscapes_ids_are_train_ids_and_all_others_are_ignored(bundle):
    classes = tuple(ClassInfo(name=str(i), color=(i, 0, 0)) for i in range(19))
    large = Bundle(
        architecture="linear",
        classes=classes,
        bands=bundle.bands,
        mean=bundle.mean,
        std=bundle.std,
    )
    found = make(large, plain=CITYSCAPES).of_ids(np.arange(256, dtype=np.uint8))
    assert found[[7, 8, 11, 26, 33]].tolist() == [0, 1, 2, 13, 18]
    assert sorted(found[found != IGNORE].tolist()) == [*range(19)]
    assert make(large, "26=0", plain=CITYSCAPES).of_ids(np.array([26])).tolist() == [0]


def test_a_class_that_the_bundle_lacks_is_refused_of_cityscapes_too(bundle):
    with pytest.raises(ItemError, match="id 13 "):
        make(bundle, plain=CITYSCAPES).of_ids(np.array([7, 13], np.uint8))
