"""What is installed is what was chosen: by hash, and from wherever the user installs."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ENTRIES = re.split(r"\n(?=\S)", re.sub(r"(?m)^\s*#.*\n?", "", LOCK).strip())
LEAST = {"torch": (2, 10), "pillow": (12, 3), "pyarrow": (14, 0, 1), "ray": (2, 54)}
"""The first versions without a known way to run code by a file or a request."""


def version(text):
    return tuple(int(part) for part in text.split("."))


def test_every_package_is_fixed_by_hashes():
    assert len(ENTRIES) > 100
    for entry in ENTRIES:
        first, *hashes = entry.replace("\\\n", "\n").split("\n")
        assert re.fullmatch(r"[a-z0-9.-]+==[\w.+]+( ; .+)?", first.strip()), first
        assert hashes, f"{first} has no hash"
        for line in hashes:
            assert re.fullmatch(r"\s+--hash=sha256:[0-9a-f]{64}\s*", line), line


def test_no_file_names_a_host_to_install_from():
    """An address of one's own in them would be everybody's."""
    project = (ROOT / "pyproject.toml").read_text()
    for text in (LOCK, project, (ROOT / "Makefile").read_text()):
        assert not re.search(r"://| @ |--(extra-)?index|--find-links|--trusted|-i\b", text)
    assert not {"index", "sources"} & PROJECT.get("tool", {}).get("uv", {}).keys()


def test_hashes_are_required():
    (line,) = re.findall(r".*-r requirements\.lock", (ROOT / "Makefile").read_text())
    assert "--require-hashes" in line


@pytest.mark.parametrize("name", LEAST)
def test_no_version_with_a_known_hole_is_allowed(name):
    wanted = "\n".join(PROJECT["project"]["dependencies"])
    (least,) = re.findall(rf"(?m)^{name}>=([\d.]+)", wanted)
    (locked,) = re.findall(rf"(?m)^{name}==([\d.]+)", LOCK)
    assert version(locked) >= version(least) >= LEAST[name]
