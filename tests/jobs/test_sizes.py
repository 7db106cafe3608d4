"""What size an image is seen at."""

from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.sizes import MAX_SIDE, Sizes, parse_resize, resized_size

SIDE = st.integers(1, 20_000)


@given(SIDE, SIDE, st.sampled_from(["long", "short"]), st.integers(1, MAX_SIDE))
def test_sides_are_rounded_to_the_nearest_px(height, width, which, wanted):
    of = max(height, width) if which == "long" else min(height, width)
    expected = tuple(
        max(1, floor(Fraction(side * wanted, of) + Fraction(1, 2)))
        for side in (height, width)
    )
    found = resized_size(f"{which}={wanted}", height, width)
    assert found == expected
    assert wanted in found
    assert resized_size(f"{which}={wanted}", width, height) == found[::-1]
    assert resized_size("none", height, width) == (height, width)


@pytest.mark.parametrize(
    ("resize", "size", "expected"),
    [
        ("long=1024", (1536, 2048), (768, 1024)),
        ("short=512", (1536, 2048), (512, 683)),
        ("long=1024", (256, 512), (512, 1024)),  # larger
        ("long=3", (2, 4), (2, 3)),  # a half goes up
        ("long=5", (1, 5000), (1, 5)),  # never none
        ("short=5", (1, 100), (5, 500)),
    ],
)
def test_sizes(resize, size, expected):
    assert resized_size(resize, *size) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1024",
        "long",
        "long=",
        "long=0",
        "long=07",
        "long=-5",
        "long=16385",
        "wide=9",
        "long=1.5",
        "None",
        "long=9 ",
        "long=9,short=3",
        "long=٣",
    ],
)
def test_what_says_nothing_is_refused(text):
    with pytest.raises(
        ValueError, match="resize must be long=PX, short=PX or none, and PX"
    ):
        parse_resize(text)
    with pytest.raises(InputError, match="got"):
        Sizes(resize=text)


def test_masks_are_of_the_image_or_the_model():
    with pytest.raises(InputError, match="mask_size must be image or model, got 'half'"):
        Sizes(mask_size="half")
    given = {"resize": "long=9", "mask_size": "model", "tile": 3}
    assert Sizes.parse(given) == Sizes(resize="long=9", mask_size="model")
    assert Sizes.parse({}) == Sizes()
