"""Classes by name or number, and what is said where there is no such class."""

import pytest

from deeplab.bundle import ClassInfo
from jobs.class_choice import choose_classes
from jobs.errors import InputError


@pytest.fixture
def bundle(make_bundle):
    names = ("soil", "low vegetation", "1", "all")
    classes = tuple(ClassInfo(name=name, color=(1, 2, 3)) for name in names)
    return make_bundle(classes=classes)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (None, ()),
        ((), ()),
        (("all",), (0, 1, 2, 3)),
        (("soil",), (0,)),
        (("low vegetation", "0"), (1, 0)),  # in the order asked for
        (("1",), (1,)),  # a number is an id, whatever is called so
        (("2",), (2,)),
        (("soil", "all"), (0, 3)),
    ],
    ids=str,
)
def test_names_and_numbers_are_found(bundle, asked, expected):
    assert choose_classes("probabilities", asked, bundle) == expected


@pytest.mark.parametrize("name", ["water", "4", "-1", "", "Soil", "01"])
def test_an_unknown_class_is_refused_with_those_there_are(bundle, name):
    with pytest.raises(InputError) as caught:
        choose_classes("probabilities", ("soil", name), bundle)
    assert str(caught.value) == (
        f"probabilities must be all or classes of the bundle, got {name!r}; it has "
        "0 soil, 1 low vegetation, 2 1, 3 all"
    )


@pytest.mark.parametrize("asked", [("soil", "soil"), ("0", "soil"), ("soil", "1", "0")])
def test_a_class_twice_is_refused(bundle, asked):
    with pytest.raises(InputError) as caught:
        choose_classes("probabilities", asked, bundle)
    assert str(caught.value) == (
        f"probabilities names 'soil' twice, got {','.join(asked)}; keep one"
    )
