"""The installed command, started where a user keeps other code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import jobs

ATROUS = Path(sys.executable).with_name("atrous")


@pytest.fixture
def workshop(tmp_path):
    """A folder whose own modules bear our packages' names."""
    (tmp_path / "jobs").mkdir()
    for name in ("jobs/__init__.py", "cluster.py", "deeplab.py"):
        (tmp_path / name).write_text("raise ImportError('this is not atrous')\n")
    return tmp_path


def start(folder, *arguments):
    return subprocess.run(  # noqa: S603
        [ATROUS, *map(str, arguments)],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
    )


@pytest.mark.ray
def test_foreign_modules_shadow_nothing(workshop, images, linear):
    done = start(workshop, "label", images, "run", "--bundle", linear, "--replicas", 1)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{workshop}/run/masks\n"
    status = json.loads(start(workshop, "status", "run", "--json").stdout)
    assert status["finished"]
    assert status["items"] == 9


def test_dead_letters_exit_3(workshop, images, linear):
    (workshop / "images").mkdir()
    (workshop / "images" / "bad.png").write_bytes(b"not a picture")
    (workshop / "images" / "good.png").write_bytes((images / "0.png").read_bytes())
    done = start(workshop, "label", "images", "run", "--bundle", linear, "--local")
    assert done.returncode == 3
    assert "1 dead letters: " in done.stderr


@pytest.mark.skipif(
    (Path.cwd() / "jobs") == Path(jobs.__file__).parent, reason="installed as editable"
)
def test_tests_run_from_the_installed_package():
    assert "site-packages" in jobs.__file__
