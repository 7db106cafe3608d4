"""Keys become names that stay in their folder and are never alike."""

import posixpath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.outputs.export_names import Stems, safe_name

KEYS = st.text(
    st.one_of(st.sampled_from('./\\:%~-a é\x00\n*"'), st.characters()), max_size=30
)


@pytest.mark.parametrize("key", ["a.jpg", "2024/05/b c_d-1.png", "日本/ü.webp", "=x.jpg"])
def test_an_ordinary_key_stays_as_it_is(key):
    assert safe_name(key) == key


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("/etc/passwd", "%/etc/passwd"),
        ("a//b", "a/%/b"),
        ("C:\\x", "C%3A%5Cx"),
        ("a%2Fb", "a%252Fb"),
        (".hidden", "%2Ehidden"),
        ("nul.png", "%6Eul.png"),
        ("end.", "end%2E"),
    ],
)
def test_what_could_be_taken_for_something_else_is_written_out(key, name):
    assert safe_name(key) == name


def test_a_long_name_is_cut_and_keeps_its_suffix():
    first, second = safe_name("x" * 300 + "1.jpg"), safe_name("x" * 300 + "2.jpg")
    assert first != second
    assert first.endswith(".jpg")
    assert len(first) < 100


@given(KEYS)
def test_no_key_leaves_the_folder(key):
    parts = safe_name(key).split("/")
    assert all(part and part not in {".", ".."} for part in parts)
    assert posixpath.normpath("/out/" + "/".join(parts)) == "/out/" + "/".join(parts)
    assert not set("/".join(parts)) & set('\\:*?"<>|\x00\n')


@given(st.lists(KEYS, unique=True, max_size=8))
def test_different_keys_have_different_names(keys):
    assert len({safe_name(key) for key in keys}) == len(keys)


@given(st.lists(KEYS, unique=True, max_size=8))
def test_different_keys_have_different_stems_on_any_file_system(keys):
    stems = Stems(keys)
    assert len({stems.find(key).casefold() for key in keys}) == len(keys)


def test_stems_that_are_shared_get_digits_whatever_the_order():
    keys = ["a.jpg", "a.png", "b.jpg", "B.jpg", "c.jpg", "x/c.jpg"]
    forth, back = Stems(keys), Stems(keys[::-1])
    found = [forth.find(key) for key in keys]
    assert found == [back.find(key) for key in keys]
    assert found[4:] == ["c", "x/c"]
    assert [len(name) for name in found[:4]] == [18] * 4
    assert forth.shared == 4
