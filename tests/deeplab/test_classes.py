import itertools

import numpy as np
import pytest

from deeplab.bundle import MAX_CLASSES, ClassInfo
from deeplab.classes import (
    CLASS_SETS,
    _oklab,
    distinct_colors,
    number_classes,
    parse_classes,
    read_classes,
)

SIZES = {"ade20k": 150, "cityscapes": 19, "isaid": 16, "loveda": 7, "potsdam": 6, "voc": 21}


@pytest.mark.parametrize("name", CLASS_SETS)
def test_published_sets_are_whole(name):
    classes = read_classes(name)
    assert len(classes) == len({info.name for info in classes}) == SIZES[name]


@pytest.mark.parametrize(
    ("source", "number", "name", "color"),
    [
        ("voc", 0, "background", (0, 0, 0)),
        ("voc", 15, "person", (192, 128, 128)),
        ("voc", 20, "tvmonitor", (0, 64, 128)),
        ("cityscapes", 0, "road", (128, 64, 128)),
        ("cityscapes", 6, "traffic light", (250, 170, 30)),
        ("cityscapes", 18, "bicycle", (119, 11, 32)),
        ("loveda", 6, "agricultural", (255, 195, 128)),
        ("potsdam", 2, "low vegetation", (0, 255, 255)),
        ("isaid", 15, "harbor", (0, 100, 155)),
        ("ade20k", 149, "flag", (92, 0, 255)),
    ],
)
def test_published_names_and_colours(source, number, name, color):
    assert read_classes(source)[number] == ClassInfo(name=name, color=color)


def test_the_colours_of_voc_are_those_of_its_rule():
    """The development kit draws each bit of an id into the bits of a colour."""
    for number, info in enumerate(read_classes("voc")):
        bits = [(number >> k) & 1 for k in range(6)]
        expected = tuple(bits[k] << 7 | bits[k + 3] << 6 for k in range(3))
        assert info.color == expected


def test_a_list_names_its_classes_and_some_colours():
    text = "\ntraffic light #FAaa1e\n  low vegetation\r\n\nroad  #804080  \n"
    light, low, road = parse_classes(text, "list")
    assert light == ClassInfo(name="traffic light", color=(250, 170, 30))
    assert road == ClassInfo(name="road", color=(128, 64, 128))
    assert low.name == "low vegetation"
    assert low.color not in {light.color, road.color}


def test_a_file_is_read_with_and_without_a_byte_order_mark(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfwater #0000ff\n")
    assert read_classes(str(path)) == (ClassInfo(name="water", color=(0, 0, 255)),)


@pytest.mark.parametrize(
    "line", ["road #8040", "road #80408g", "#804080", "road 1 # 2", "road #"]
)
def test_another_line_is_refused(line):
    with pytest.raises(ValueError, match=r"mine, line 2: a class is a name, or a name"):
        parse_classes(f"water\n{line}\n", "mine")


def test_other_lists_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"or one of ade20k, .* got 'city' \(No such file"):
        read_classes("city")
    with pytest.raises(ValueError, match="mine must have one class a line, got no line"):
        parse_classes(" \n", "mine")
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="must be text in UTF-8"):
        read_classes(str(path))


def test_numbered_classes_are_the_same_each_time():
    classes = number_classes(3)
    assert [info.name for info in classes] == ["class 0", "class 1", "class 2"]
    assert classes == number_classes(5)[:3]


@pytest.mark.parametrize(
    ("count", "gap"), [(2, 0.3), (8, 0.2), (21, 0.12), (MAX_CLASSES, 0.03)]
)
def test_colours_are_well_apart(count, gap):
    """Of two greys, 0.02 in Oklab is about what the eye just tells apart."""
    colors = [(0, 0, 0), (255, 255, 255), *distinct_colors(count)]
    places = _oklab(np.array(colors))
    pairs = itertools.combinations(places, 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > gap
