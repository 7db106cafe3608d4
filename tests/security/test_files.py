"""Local sources that hold more than files: nothing waits, nothing is read for ever.

A link to a file is read like the file, wherever it leads; a link to a folder is not
followed, unless it is the source itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from jobs.errors import ItemError
from jobs.storage import Access, open_store

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).parents[2]
JOBS = {"label": ".png", "map": ".tif"}


@pytest.fixture
def source(tmp_path, png, tif):
    """A folder with all that may be met in one, and what it should give."""

    def make(suffix):
        folder, outside = tmp_path / "source", tmp_path / "outside"
        data = png if suffix == ".png" else tif
        for place in (folder / f"folder{suffix}", outside):
            place.mkdir(parents=True)
            (place / f"inner{suffix}").write_bytes(data)
        (folder / f"plain{suffix}").write_bytes(data)
        (folder / f"line\nbreak{suffix}").write_bytes(data)
        (folder / f"empty{suffix}").write_bytes(b"")
        (folder / f"link{suffix}").symlink_to(outside / f"inner{suffix}")
        (folder / f"to a folder{suffix}").symlink_to(outside)
        (folder / f"up{suffix}").symlink_to(tmp_path)
        (folder / f"self{suffix}").symlink_to(folder / f"self{suffix}")
        (folder / f"dead{suffix}").symlink_to(tmp_path / "none")
        (folder / f"zero{suffix}").symlink_to("/dev/zero")
        os.mkfifo(folder / f"pipe{suffix}")
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(folder)  # the name of a socket must be short
            server.bind(f"socket{suffix}")
        return folder

    before = Path.cwd()
    yield make
    os.chdir(before)


@pytest.mark.parametrize(("job", "suffix"), JOBS.items())
def test_only_files_are_read(job, suffix, source, bundle, command, tmp_path):
    run = tmp_path / "run"
    code, *printed = command(job, source(suffix), run, "--local", "--bundle", bundle)
    assert code == 3, printed
    stems = ["folder{0}/inner", "line\nbreak", "link", "plain", "empty"]
    planned = set(pq.read_table(run / "plan.parquet")["key"].to_pylist())
    assert planned == {f"{stem.format(suffix)}{suffix}" for stem in stems}
    rows = pq.read_table(run / "dead_letter.parquet").to_pylist()
    assert [(row["key"], row["code"]) for row in rows] == [
        (f"empty{suffix}", "undecodable")
    ]
    assert command("verify", run, "--deep")[0] == 0


@pytest.mark.parametrize(("job", "suffix"), JOBS.items())
def test_the_source_itself_may_be_a_link(job, suffix, source, bundle, command, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(source(suffix) / f"folder{suffix}")
    run = tmp_path / "run"
    assert command(job, link, run, "--local", "--bundle", bundle)[0] == 0
    assert pq.read_table(run / "plan.parquet")["key"].to_pylist() == [f"inner{suffix}"]


@pytest.mark.parametrize("kind", ["pipe", "socket", "zero", "self", "dead", "up"])
@pytest.mark.parametrize(("job", "suffix"), JOBS.items())
def test_a_source_that_is_no_file_is_refused(  # noqa: PLR0913, PLR0917
    job, suffix, kind, source, bundle, command, tmp_path
):
    location = source(suffix) / f"{kind}{suffix}"
    if kind == "up":
        location = location.with_name("a" * 300)
    run = tmp_path / "run"
    code, out, err = command(job, location, run, "--local", "--bundle", bundle)
    assert (code, out) == (2, ""), err
    assert err.startswith("atrous: nothing at ")
    assert not list(run.glob("**/*.json"))


def make_pipe(path):
    os.mkfifo(path)


def make_socket(path):
    os.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path.name)


OTHERS = {
    "pipe": make_pipe,
    "socket": make_socket,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path),
    "folder": lambda path: path.mkdir(),
    "nothing": Path.exists,
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_file_that_became_something_else_is_gone(kind, tmp_path, monkeypatch):
    """Between planning and reading; a pipe must not make anybody wait."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.png"
    OTHERS[kind](path)
    store = open_store(Access())
    for read in (lambda: store.read(str(path)), lambda: store.read_head(str(path), 9)):
        with pytest.raises(ItemError) as caught:
            read()
        assert caught.value.code == "not_found"


def test_a_bundle_that_has_no_end_is_refused(command, tmp_path, source):
    for location in ("/dev/zero", source(".png") / "pipe.png"):
        code, _, err = command("plan", "label", tmp_path, "--bundle", location)
        assert code == 2, err
        assert "is no regular file" in err


WITHOUT_RIGHTS = """
import ctypes, os, sys

if os.geteuid() == 0:
    # Root reads and writes what it may not by these alone.
    drop, override, search = 24, 1, 2
    for right in (override, search):
        if ctypes.CDLL(None, use_errno=True).prctl(drop, right, 0, 0, 0):
            sys.exit(77)
os.execv(sys.executable, [sys.executable, "-c", *sys.argv[1:]])
"""

LOOK = """
import sys
from types import SimpleNamespace
from jobs.errors import ItemError
from jobs.map_job import MapJob
from jobs.spec import Limits, Reading
from jobs.storage import Access, open_store

(folder,) = sys.argv[1:]
store = open_store(Access())
spec = SimpleNamespace(
    access=Access(),
    limits=Limits(),
    reading=Reading(),
    bundle=SimpleNamespace(bands=("red",)),
)
found = store.find(f"{folder}/shut.tif")
print(MapJob(spec=spec)._inspect(found[0]).code)
for call in (
    lambda: store.read(found[0].uri),
    lambda: store.find(folder),
    lambda: store.create(f"{folder}/folder/a", b""),
):
    try:
        call()
    except Exception as error:
        print(getattr(error, "code", type(error).__name__))
"""


def test_what_may_not_be_read_is_forbidden(tmp_path, tif):
    """In a process without the rights that root has over those of a file."""
    if sys.platform != "linux":
        pytest.skip("drops rights as Linux does")
    (tmp_path / "shut.tif").write_bytes(tif)
    (tmp_path / "shut.tif").chmod(0)
    (tmp_path / "folder").mkdir(mode=0)
    found = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", WITHOUT_RIGHTS, LOOK, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    if found.returncode == 77:
        pytest.skip("this root may not drop its rights")
    codes = ["forbidden", "forbidden", "InputError", "RunError"]
    assert found.stdout.split() == codes, found.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#" * 10**6, "at most 32768 bytes"),
        (f"a{'.a' * 4000} = 1", "has a table [a]"),
        (f"a = {'[' * 30000}", "is not TOML"),
        (f"a = {'[' * 10000}{']' * 10000}", "is not TOML"),
        (f"limit = {'9' * 30000}", "is not TOML"),
        (f"[{'a.' * 9000}a]", "has a table [a]"),
        ("endpoint_url = '\x1b[2J'", "is not TOML"),
        ("\x00\xff", "is not TOML"),
    ],
)
def test_a_job_file_that_is_too_much_is_refused(text, message, command, tmp_path, bundle):
    file = tmp_path / "job.toml"
    file.write_bytes(text.encode("latin-1"))
    words = ("--local", "--bundle", bundle, "-c", file)
    code, out, err = command("label", tmp_path, tmp_path / "run", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.rstrip("\n").isprintable()
    assert len(err) < 1000


def test_a_job_file_without_end_is_refused(command, tmp_path, bundle):
    words = ("--local", "--bundle", bundle, "-c", "/dev/zero")
    code, _, err = command("label", tmp_path, tmp_path / "run", *words)
    assert code == 2
    assert "at most 32768 bytes" in err
