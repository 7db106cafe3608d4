import random

import pytest

from jobs.disk import find_files
from jobs.sorting import Sorter


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 500])
def test_rows_come_in_order_whatever_the_disk_held(count):
    letters = ["a", "\n", '"', "\\", "é", "\udcff", " ", "日"]
    picks = random.Random(count)
    rows = [
        ("".join(picks.choices(letters, k=picks.randrange(1, 6))), str(n % 7))
        for n in range(count)
    ]
    with Sorter(most_rows=10, most_runs=3) as sorter:
        for row in rows:
            sorter.add(*row)
        assert list(sorter) == sorted(rows)
        assert (sorter._folder is not None) == (count >= 10)
        folder = sorter._folder
        if folder is not None:
            assert len(list(folder.iterdir())) == len(sorter._runs) <= 3
    assert folder is None or not folder.exists()


def test_files_come_in_the_order_of_their_locations(tmp_path):
    names = ["a.jpg", "a/b.jpg", "a-1/c.jpg", "a/b/c.jpg", "a0.jpg", "B/x", "é/y", "z z/1"]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")  # a folder, and not followed
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "to.jpg").symlink_to(tmp_path / "a.jpg")
    found = [one.uri for one in find_files(str(tmp_path))]
    assert found == sorted(f"{tmp_path}/{name}" for name in [*names, "to.jpg"])
