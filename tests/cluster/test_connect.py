from __future__ import annotations

from pathlib import Path

import pytest

from cluster.connect import connect


@pytest.mark.ray
def test_open_session_is_used_and_left_open(ray_session):
    with connect("203.0.113.1:6379") as resources:
        assert resources["CPU"] == ray_session["CPU"]
    with connect(None) as resources:
        assert resources["CPU"] == ray_session["CPU"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_run_in_an_empty_folder_that_exists():
    import ray

    @ray.remote
    def folder() -> Path:
        return Path.cwd()

    where = ray.get(folder.remote())
    assert where.is_dir()
    assert not list(where.iterdir())
    assert where != Path.cwd()
