import json
import shlex
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from jobs import cli
from jobs.errors import AtrousError, BugError, UnfinishedError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder, which must stay empty."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture
def bundle(tmp_path, make_bundle):
    """A bundle file that is whole; nobody looks whether its weights fit."""
    from safetensors.numpy import save_file

    from deeplab.bundle import compute_digest, header_text

    def write(name="net.safetensors", **fields):
        path = tmp_path / name
        tensors = {"weight": np.zeros(1, dtype=np.float32)}
        header = make_bundle(**fields)
        header = replace(header, digest=compute_digest(header, tensors))
        save_file(tensors, path, metadata={"atrous": header_text(header)})
        return str(path)

    return write


@pytest.fixture
def images(tmp_path):
    """A folder of three images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 6)).save(folder / f"{i}.png")
    return str(folder)


@pytest.fixture
def started(monkeypatch):
    """The requests that were started; a run has ``started.dead`` dead letters."""

    class Started(list):
        dead = 0

    asked = Started()

    def start(request, _progress):
        asked.append(request)
        return {"run": "/out", "job": request.job, "dead_letters": asked.dead}

    monkeypatch.setattr("jobs.commands.start", start)
    return asked


def assert_refused(found, *words):
    """Exit code 2, nothing on stdout, one line on stderr that holds the words."""
    code, out, err = found
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    for word in words:
        assert word in err


def commands(group=cli.cli, before=()):
    """Every command that does something, by its words."""
    for name, command in group.commands.items():
        words = (*before, name)
        if isinstance(command, click.Group):
            yield from commands(command, words)
        else:
            yield words, command


COMMANDS = dict(commands())


# Help


def test_help_imports_neither_torch_nor_ray():
    code = (
        "import sys; from jobs.cli import _main; _main(['-h'])\n"
        "heavy = {'torch', 'ray', 'numpy', 'pyarrow', 'rasterio', 's3fs', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.endswith("\n[]\n")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words != ("demo",)], ids=" ".join
)
def test_an_error_of_the_command_line_imports_no_torch(words):
    code = (
        f"import sys; from jobs.cli import _main\n"
        f"print(_main([*{words}, '--nonsense']), {{'torch', 'ray'}} & set(sys.modules))"
    )
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout == "2 set()\n"


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("words", [(), ("bundle",), *COMMANDS], ids=" ".join)
def test_every_command_explains_itself(run, words, flag):
    code, out, err = run(*words, flag)
    assert (code, err) == (0, "")
    assert "Usage:" in out
    assert "--help" in out


def test_the_version_is_that_of_the_project(run):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    code, out, _ = run("--version")
    assert code == 0
    assert project["version"] in out


def test_no_command_is_explained_and_refused(run):
    code, out, err = run()
    assert (code, out) == (2, "")
    assert "Usage:" in err


def test_a_flag_means_the_same_everywhere():
    """One registry: the same name has the same help, type and default."""
    seen = {}
    for name, command in COMMANDS.items():
        if name == ("demo",):
            continue
        for option in command.params:
            if isinstance(option, click.Option) and option.name not in {"help", "version"}:
                about = (option.help, option.type.name, option.default, option.is_flag)
                assert seen.setdefault(option.name, about) == about, (name, option.name)


def test_no_command_has_too_many_options():
    for name, command in COMMANDS.items():
        options = [one for one in command.params if isinstance(one, click.Option)]
        assert len(options) <= 12, name


# What a user got wrong


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("label", "a", "b", "--bundel", "x"), ("no such option", "--bundel")),
        (("label", "a", "b"), ("--bundle",)),
        (("label", "a"), ("RUN",)),
        (("lable",), ("lable",)),
        (("map", "a", "b", "--bundle", "x", "--mosaic", "last"), ("last", "recent")),
        (("map", "a", "b", "--bundle", "x", "-c", "device=tpu"), ("tpu", "cuda")),
        (("map", "a", "b", "--bundle", "x", "-c", "block=big"), ("block must be", "big")),
        (("plan", "train", "a", "--bundle", "x"), ("train", "label")),
        (("status",), ("RUN",)),
        (("plan",), ("label", "map")),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_a_wrong_command_is_one_line(run, arguments, words):
    code, out, err = run(*arguments)
    assert_refused((code, out, err.lower()), *(word.lower() for word in words))


def test_a_wrong_source_is_one_line(run, bundle, tmp_path):
    source = tmp_path / "none"
    for verb in ("label", "map"):
        found = run(verb, source, tmp_path / "run", "--bundle", bundle(), "--local")
        assert_refused(found, f"atrous: nothing at {source}; check the path")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("job", ["label", "map"])
def test_an_empty_source_is_one_line(run, bundle, tmp_path, job):
    source = tmp_path / "empty"
    source.mkdir()
    found = run("plan", job, source, "--bundle", bundle())
    assert_refused(
        found, f"atrous: nothing at {source}; check the path, the prefix or the glob"
    )
    (source / "notes.txt").touch()
    found = run("plan", job, source, "--bundle", bundle())
    assert_refused(found, f"no input under {source} among 1 objects", ".tif")


@pytest.mark.parametrize(
    "content", [b"", b"not a bundle", None], ids=["empty", "text", "none"]
)
def test_a_wrong_bundle_is_one_line(run, images, tmp_path, content):
    path = tmp_path / "net.safetensors"
    if content is not None:
        path.write_bytes(content)
    found = run("label", images, tmp_path / "run", "--bundle", path, "--local")
    assert_refused(found, str(path), "bundle")


def test_a_bundle_of_other_bands_is_one_line(run, bundle, images):
    found = run("plan", "label", images, "--bundle", bundle(bands=("red", "nir")))
    assert_refused(found, "label reads red, green and blue; the bundle wants red, nir")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--limit", 0), ("limit must be at least 1, got 0",)),
        (("-c", "shard_items=0"), ("shard limits must be at least 1, got max_items=0",)),
        (
            ("--endpoint-url", "host:9000"),
            ("must look like https://host[:port], got host:9000",),
        ),
    ],
)
def test_a_wrong_value_is_one_line(run, bundle, images, options, words):
    assert_refused(run("plan", "label", images, "--bundle", bundle(), *options), *words)


def test_a_wrong_block_is_one_line(run, bundle, images):
    found = run("plan", "map", images, "--bundle", bundle(), "-c", "block=1000")
    assert_refused(found, "block must be a multiple of 512 px, got 1000")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("-c", "threads=0"), "threads must be at least 1, got 0"),
        (("--replicas", 0), "replicas must be at least 1, got 0"),
        (("--local", "--replicas", 2), "--local has one replica, got --replicas 2"),
    ],
)
def test_a_wrong_place_is_one_line(run, bundle, images, tmp_path, options, words):
    found = run("label", images, tmp_path / "run", "--bundle", bundle(), *options)
    assert_refused(found, words)


@pytest.mark.parametrize("location", ["gs://bucket/a", "http://host/a"])
def test_another_store_is_one_line(run, bundle, location):
    assert_refused(run("plan", "label", location, "--bundle", bundle()), f"got {location}")


def test_a_foreign_run_folder_is_one_line(run, bundle, images, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "thesis.docx").touch()
    found = run("label", images, folder, "--bundle", bundle(), "--local")
    assert_refused(found, f"{folder} is not empty and holds no run", "thesis.docx")
    assert [one.name for one in folder.iterdir()] == ["thesis.docx"]


def test_a_run_folder_that_is_a_file_is_one_line(run, bundle, images, tmp_path):
    path = tmp_path / "run"
    path.touch()
    assert_refused(run("label", images, path, "--bundle", bundle(), "--local"), str(path))
    assert_refused(run("status", path), f"{path} holds no run")


def test_no_run_is_one_line(run, tmp_path):
    path = tmp_path / "none"
    assert_refused(
        run("status", path), f"atrous: {path} holds no run (no job.json); check the"
    )


@pytest.fixture
def haste(monkeypatch):
    """A store that is given up soon."""
    from jobs.patience import Patience
    from jobs.storage import open_store

    little = Patience(budget_s=0.2, connect_s=0.1, silence_s=0.1, first_pause_s=0.01)
    monkeypatch.setattr("jobs.storage.Patience", lambda: little)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    open_store.cache_clear()
    yield
    open_store.cache_clear()


@pytest.mark.s3
@pytest.mark.usefixtures("haste")
@pytest.mark.parametrize(
    "command",
    [("plan", "label", "s3://b/a", "--bundle", "s3://b/net"), ("status", "s3://b/run")],
    ids=" ".join,
)
def test_a_server_that_does_not_answer_is_one_line(run, command):
    code, out, err = run(*command, "--endpoint-url", "http://127.0.0.1:1")
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "s3://b/" in err


# What works


def test_plan_counts_images(run, bundle, images):
    code, out, err = run(
        "plan", "label", images, "--bundle", bundle(), "-c", "shard_items=2"
    )
    assert (code, err) == (0, "")
    size = sum(path.stat().st_size for path in Path(images).iterdir())
    assert out.splitlines() == [
        f"label {images}",
        f"  items   3, {size / 1e6:.1f} MB",
        "  pixels  0.0 M in 3 tiles",
        "  tiles   64 px, overlap 16 px, blend hann: the network sees 21.33 px for each px",
        "  refused 0",
        "  shards  2",
        out.splitlines()[-1],
    ]
    start = f"atrous label {images} RUN --bundle {bundle()} --config shard_items=2"
    assert out.splitlines()[-1] == f"start it: {start}"


def test_plan_ends_with_the_command_to_type(run, bundle, images, tmp_path, started):
    (tmp_path / "my job.toml").write_text(f"bundle = '{bundle()}'\n")
    typed = ("--anon", "-c", tmp_path / "my job.toml", "-c", "on_error=stop", "--limit", 2)
    code, out, _ = run("plan", "label", images, *typed)
    assert code == 0
    words = shlex.split(out.splitlines()[-1].removeprefix("start it: atrous "))
    assert run(*words)[0] == 0
    (request,) = started
    assert (request.bundle, request.limit, request.access.anon) == (bundle(), 2, True)
    assert {reaction for _, reaction in request.policy.on_error} == {"stop"}


def test_plan_json_is_one_object(run, bundle, images):
    options = ("--bundle", bundle(), "-c", "shard_items=2", "--limit", 2, "--json")
    code, out, err = run("plan", "label", images, *options)
    assert (code, err, out.count("\n")) == (0, "", 1)
    size = sum(Path(images, f"{i}.png").stat().st_size for i in range(2))
    found = json.loads(out)
    with Image.open(Path(images, "0.png")) as one:
        pixels = 2 * one.width * one.height
    assert found == {
        "job": "label",
        "source": images,
        "items": 2,
        "bytes": size,
        "pixels": pixels,
        "tiles": 2,
        "refused": 0,
        "shards": 1,
        "tile": 64,
        "overlap": 16,
        "blend": "hann",
        "waste": round(32**2 / (8 * 6), 2),
        "read_amplification": None,
    }


def test_plan_counts_the_tiles_of_images(run, bundle, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    Image.new("RGB", (100, 40)).save(folder / "wide.jpg")
    Image.new("RGB", (10, 10)).save(folder / "small.webp")
    (folder / "broken.png").write_bytes(b"no picture")
    options = ("--bundle", bundle(tile=64, overlap=16), "--json")
    found = json.loads(run("plan", "label", folder, *options)[1])
    assert (found["items"], found["refused"]) == (3, 1)
    assert found["pixels"] == 100 * 40 + 10 * 10
    assert found["tiles"] == 2 + 1


def test_plan_counts_rasters(run, bundle, write_raster):
    good = write_raster(np.zeros((3, 600, 1100), dtype=np.uint8), "scenes/good.tif")
    write_raster(np.zeros((1, 9, 9), dtype=np.uint8), "scenes/grey.tif")
    source = str(Path(good).parent)
    options = ("--bundle", bundle(tile=64, overlap=16), "-c", "block=512", "--json")
    code, out, _ = run("plan", "map", source, *options)
    found = json.loads(out)
    assert code == 0
    assert (found["items"], found["refused"], found["shards"]) == (2, 1, 7)
    assert found["pixels"] == 600 * 1100
    assert found["tiles"] == -(-(600 - 16) // 48) * -(-(1100 - 16) // 48)
    assert found["read_amplification"] > 1
    _, out, _ = run("plan", "map", source, *options[:-1])
    assert f"reading {found['read_amplification']:g} px are decoded for each px" in out


def test_plan_counts_other_tiles(run, bundle, write_raster):
    source = write_raster(np.zeros((3, 600, 1100), dtype=np.uint8), "scenes/good.tif")
    wanted = ("-c", "tile=128", "-c", "overlap=96", "-c", "blend=crop")
    code, out, _ = run("plan", "map", source, "--bundle", bundle(), *wanted, "--json")
    found = json.loads(out)
    assert code == 0
    assert [found[name] for name in ("tile", "overlap", "blend")] == [128, 96, "crop"]
    assert found["tiles"] == -(-(600 - 96) // 32) * -(-(1100 - 96) // 32)
    assert found["waste"] == round(found["tiles"] * 128**2 / (600 * 1100), 2)


def test_tiles_that_do_not_fit_are_refused_before_anything_starts(run, bundle, images):
    for command in (("plan", "label", images), ("label", images, "run")):
        code, out, err = run(*command, "--bundle", bundle(), "-c", "tile=16")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "overlap must be less than a tile, 0 to 15 px, got 16; the bundle's" in err


def test_status_json_is_one_object(run, tmp_path, make_spec, make_items, local_store):
    from jobs.folder import prepare
    from jobs.shards import plan_shards

    spec = make_spec(run=str(tmp_path / "run"))
    prepare(local_store, spec, plan_shards(make_items(1), max_items=1, max_bytes=1))
    code, out, err = run("status", spec.run, "--json")
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert json.loads(out)["shards"] == {"planned": 1, "done": 0}
    code, out, err = run("status", spec.run)
    assert (code, err) == (0, "")
    assert out.endswith("not finished; run the same command again to go on\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [(AtrousError("no"), 2), (UnfinishedError("no"), 4), (BugError("no"), 1)],
    ids=["input", "unfinished", "bug"],
)
def test_an_error_is_its_exit_code(run, images, monkeypatch, error, code):
    def fail(*_):
        raise error

    monkeypatch.setattr("jobs.commands.preview_plan", fail)
    assert run("plan", "label", images, "--bundle", "x") == (code, "", "atrous: no\n")


@pytest.mark.parametrize("error", [KeyboardInterrupt, click.Abort])
def test_ctrl_c_is_130(run, images, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("jobs.commands.preview_plan", fail)
    code, out, err = run("plan", "label", images, "--bundle", "x")
    assert (code, out) == (130, "")
    assert err.endswith("atrous: interrupted; the same command goes on where it stopped\n")


@pytest.mark.parametrize(("dead", "code"), [(0, 0), (2, 3)])
def test_a_run_says_where_its_output_is(run, images, started, dead, code):
    started.dead = dead
    options = (
        "--bundle",
        "net",
        "-c",
        "shard_items=7",
        "--replicas",
        2,
        "-c",
        "threads=3",
        "--anon",
    )
    found, out, err = run("label", images, "RUN", *options, "--limit", 5)
    assert (found, out) == (code, "/out/masks\n")
    assert err.splitlines()[-1] == "look at it: atrous status RUN"
    assert ("2 dead letters: /out/dead_letter.parquet" in err) == bool(dead)
    (request,) = started
    assert (request.job, request.source, request.run) == ("label", images, "RUN")
    assert (request.bundle, request.limit, request.precision) == ("net", 5, "fp32")
    assert (request.cut.shard_items, request.cut.block) == (7, 4096)
    assert (request.place.replicas, request.place.threads) == (2, 3)
    assert (request.access.anon, request.access.requester_pays) == (True, False)


def test_main_exits_with_the_code(monkeypatch):
    monkeypatch.setattr(cli, "_main", lambda _: 3)
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 3
