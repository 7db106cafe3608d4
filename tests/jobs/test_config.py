"""Settings: flags over ``--config`` over the environment over defaults."""

import json
import re
import tomllib
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli import cli
from jobs.commands import Request
from jobs.config import (
    make_access,
    make_limits,
    make_place,
    make_policy,
    make_request,
    resolve_settings,
    write_job_file,
)
from jobs.engine import Place
from jobs.errors import InputError
from jobs.policy import REACTIONS, STAGES
from jobs.settings import (
    ACCESS,
    BANDS,
    CLASSES,
    COMMANDS,
    FLAG,
    FLOORS,
    NUMBER,
    PLACES,
    RANGE,
    REACTION,
    RESIZE,
    SCALES,
    SECONDS,
    SETTINGS,
    SHARE,
    TEXT,
    WHOLE,
    parse_setting,
    read_setting,
)
from jobs.spec import Limits
from jobs.storage import Access
from jobs.truth_settings import DISTANCE, NUMBERS

README = Path(__file__).parents[2].joinpath("README.md").read_text()
JOBS = ("label", "map", "evaluate")
OUTPUT = {"config", "as_json", "show_config"}
"""Options that say how a command answers, not what it does."""

ANOTHER = {  # a value of each setting that is not its default
    "bundle": "s3://models/net.safetensors",
    "limit": 5,
    "source_column": "place",
    "asset": "visual",
    "skip_done_in": "s3://results/before",
    "allow_http": True,
    "aoi": "1,2,3,4",
    "truth": "/masks",
    "truth_format": "voc",
    "truth_suffix": "_L",
    "truth_split": "test",
    "truth_column": "annotation",
    "truth_classes": "3=0,*=ignore",
    "truth_ignore": (11, 255),
    "boundary_tolerance": 2.5,
    "shard_items": 7,
    "shard_bytes": 2**20,
    "block": 512,
    "confidence": True,
    "probabilities": ("water", "3"),
    "mosaic": "recent",
    "compression": "deflate",
    "tile": 1024,
    "overlap": 256,
    "blend": "crop",
    "scales": (0.75, 1.0, 1.25),
    "flip": True,
    "resize": "long=1024",
    "mask_size": "model",
    "bands": (4, 3, 2),
    "value_range": (0.0, 2.5),
    "crs": "EPSG:3857",
    "resolution": 0.5,
    "allow_vrt": ("/data/scenes", "s3://bucket/scenes"),
    "local": True,
    "address": "ray://head:10001",
    "replicas": 1,
    "device": "cuda",
    "threads": 3,
    "precision": "bf16",
    "endpoint_url": "http://127.0.0.1:9000",
    "anon": True,
    "requester_pays": True,
    "commit": "single-driver",
    "on_error": ("plan=stop", "read=dead-letter", "segment=stop"),
    "max_dead_letters": "0.5%",
    "patience": 60.0,
    "capacity_timeout": 30.0,
    "decode_timeout": 0.25,
    "max_pixels": 1000,
    "max_bytes": 2000,
    "file_bytes": 2**20,
    "min_confidence": ("0.6", "road=0.7"),
    "mask_encoding": "png",
    "allow_unauthenticated": True,
}


@pytest.fixture
def job_file(tmp_path):
    """Write a job file: its path."""

    def write(text, name="job.toml"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write


def settle(*configs, command="label", **flags):
    return resolve_settings(command, configs, flags=flags)


def options_of(name):
    return {one.name for one in cli.commands[name].params if isinstance(one, click.Option)}


# The table


@pytest.mark.parametrize("command", JOBS)
def test_every_option_is_a_setting(command):
    assert options_of(command) - OUTPUT <= set(COMMANDS[command])


def test_plan_takes_the_settings_of_the_jobs():
    assert options_of("plan") - OUTPUT <= set().union(*COMMANDS.values())


def test_every_setting_is_of_a_command():
    assert set().union(*COMMANDS.values()) == SETTINGS.keys() == ANOTHER.keys()
    for names in COMMANDS.values():
        assert len(names) == len(set(names))
        assert set(ACCESS) <= set(names)


@pytest.mark.parametrize("name", SETTINGS)
def test_defaults_are_of_their_kind(name):
    one = SETTINGS[name]
    if one.default is not None:
        assert read_setting(name, one.default, "") == one.default
    assert read_setting(name, ANOTHER[name], "") == ANOTHER[name] != one.default


@pytest.mark.parametrize("command", JOBS)
def test_defaults_are_those_of_the_objects(command):
    made = make_request(command, "source", "run", settle("bundle=net", command=command))
    plain = Request(job=command, source="source", run="run", bundle="net")
    assert {reaction for _, reaction in made.policy.on_error} == {"dead-letter"}
    parts = (
        *("cut", "access", "place", "limits", "product", "pick", "tiles", "reading"),
        *("views", "sizes", "masks", "truth"),
    )
    for name in ("limit", "precision", "aoi", *parts):
        assert getattr(made, name) == getattr(plain, name)
    for name in ("max_dead_letters", "max_dead_percent", "patience_s"):
        assert getattr(made.policy, name) == getattr(plain.policy, name)


@pytest.mark.parametrize(
    ("command", "name"), [(command, name) for command in JOBS for name in COMMANDS[command]]
)
def test_no_setting_is_lost_on_its_way(command, name):
    settings = settle("bundle=net", command=command)
    other = make_request(command, "a", "b", settings | {name: ANOTHER[name]})
    assert other != make_request(command, "a", "b", settings)


def test_a_retry_computes_as_its_run_did():
    settings = settle(command="retry")
    assert settings.keys().isdisjoint({"device", "precision", "threads", "limit"})
    place = make_place(settings | {"replicas": 3, "patience": 1.0})
    assert place == Place(replicas=3, patience_s=1.0)
    assert make_policy(settings).max_dead_letters is None
    assert make_limits(settings | {"max_pixels": 9}) == Limits(max_pixels=9)
    assert make_limits(settings | {"max_bytes": 9}) == Limits(max_bytes=9)


@pytest.mark.parametrize("name", ACCESS)
def test_access_is_made_of_its_settings(name):
    assert make_access(settle(command="status")) == Access()
    changed = make_access(settle(command="status") | {name: ANOTHER[name]})
    assert getattr(changed, name) == ANOTHER[name]


def test_no_setting_is_a_credential():
    for name in (*SETTINGS, *(name for name in Access.__dataclass_fields__)):
        assert not re.search("secret|password|token|credential|key", name)


def test_the_readme_shows_what_has_no_flag():
    table = README.partition("| setting |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.+?)` \| (\S+) \|", table, re.MULTILINE)
    flags = set().union(*map(options_of, JOBS))
    assert {name for name, _ in rows} == SETTINGS.keys() - flags
    for name, default in rows:
        bare = default in {"-", "bundle's"}
        assert (None if bare else parse_setting(name, default)) == SETTINGS[name].default


# Who wins


def test_the_later_one_wins_and_a_flag_over_all(job_file):
    first = job_file('limit = 1\ndevice = "cpu"\nblock = 512\n', "first.toml")
    second = job_file("limit = 2\n", "second.toml")
    assert settle()["limit"] is None
    assert settle(first)["limit"] == 1
    assert settle(first, second)["limit"] == 2
    assert settle(second, first)["limit"] == 1
    assert settle(first, "limit=3", second)["limit"] == 2
    assert settle(first, second, "limit=3", "limit=4")["limit"] == 4
    assert settle(first, "limit=3", limit=5)["limit"] == 5
    assert settle(first, second, "limit=3", limit=5)["device"] == "cpu"


def test_the_environment_wins_over_defaults_alone():
    def address(*configs, **flags):
        found = resolve_settings(
            "label", configs, flags=flags, environment={"address": "auto"}
        )
        return found["address"]

    assert address() == "auto"
    assert address("address=ray://a:1") == "ray://a:1"
    assert address("address=ray://a:1", address="ray://b:1") == "ray://b:1"


@pytest.fixture
def started(monkeypatch):
    """The requests that were started."""
    asked = []

    def start(request, _progress):
        asked.append(request)
        return {"run": "/out", "job": request.job, "dead_letters": 0}

    monkeypatch.setattr("jobs.commands.start", start)
    return asked


def test_commands_follow_that_order(run, started, job_file, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    path = job_file('bundle = "net"\nlimit = 1\nreplicas = 2\nmask-encoding = "png"\n')
    late = ("--limit", 4, "-c", path, "-c", "replicas=5", "--mask-encoding", "raw")
    assert run("label", "a", "b", *late)[0] == 0
    (request,) = started
    assert (request.bundle, request.limit, request.place.replicas) == ("net", 4, 5)
    # A flag counts when it was typed, though it says what is the default anyway.
    assert request.masks.mask_encoding == "raw"
    assert request.place.address == "auto"
    run("label", "a", "b", "-c", path, "-c", "address=ray://head:1")
    assert started[1].place.address == "ray://head:1"


def test_flags_of_errors_reach_the_policy(run, started):
    flags = ("-c", "on_error=stop,read=dead-letter")
    run("map", "a", "b", "--bundle", "net", *flags, "-c", "max_dead_letters=2.5%")
    run("map", "a", "b", "--bundle", "net", "-c", "max_dead_letters=7", "-c", "patience=2h")
    first, second = (request.policy for request in started)
    assert first.on_error == (
        ("plan", "stop"),
        ("read", "dead-letter"),
        ("segment", "stop"),
    )
    assert (first.max_dead_letters, first.max_dead_percent) == (None, 2.5)
    assert (second.max_dead_letters, second.max_dead_percent) == (7, None)
    assert {reaction for _, reaction in second.on_error} == {"dead-letter"}
    assert second.patience_s == started[1].place.patience_s == 7200


def test_a_switch_of_a_file_can_be_put_back(job_file):
    path = job_file("local = true\n")
    assert settle(path)["local"] is True
    assert settle(path, "local=false")["local"] is False


def test_a_job_file_serves_every_command(job_file):
    path = job_file("shard_items = 3\nblock = 512\nanon = true\n")
    assert settle(path)["shard_items"] == 3
    assert "block" not in settle(path)
    assert settle(path, command="map")["block"] == 512
    assert settle(path, command="status") == {
        "endpoint_url": None,
        "anon": True,
        "requester_pays": False,
        "commit": "conditional",
    }


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("plan", "label", "a", "-c", "block=512"), "block has no effect on label"),
        (("retry", "a", "-c", "shard-bytes=1"), "shard_bytes has no effect on retry"),
        (("status", "a", "-c", "limit=1"), "limit has no effect on status"),
        (("bundle", "show", "a", "-c", "limit=1"), "limit has no effect on show"),
    ],
    ids=str,
)
def test_what_is_typed_for_one_command_has_an_effect_on_it(run, command, words):
    assert run(*command) == (2, "", f"atrous: {words}; leave it out\n")


def test_access_of_the_other_commands_can_be_set(run, monkeypatch):
    seen = []
    monkeypatch.setattr("jobs.storage.open_store", seen.append)
    monkeypatch.setattr("jobs.status.read_status", lambda *_: {})
    run("status", "a", "--anon", "--json", "-c", "requester_pays=true")
    assert seen == [Access(anon=True, requester_pays=True)]


# What is wrong


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("shard_item", "shard_items"),
        ("endpoint-uri", "endpoint_url"),
        ("Limit", "limit"),
        ("max_deadletters", "max_dead_letters"),
        ("patients", "patience"),
    ],
)
def test_an_unknown_key_names_the_nearest(job_file, key, nearest):
    with pytest.raises(InputError) as caught:
        settle(f"{key}=1")
    assert str(caught.value) == f"{key} is no setting; the nearest is {nearest}"
    path = job_file(f"{key} = 1\n")
    with pytest.raises(InputError) as caught:
        settle(path)
    assert str(caught.value) == f"{key} is no setting in {path}; the nearest is {nearest}"


@pytest.mark.parametrize("key", ["zzz", "q", "source", "json", "config", "help"])
def test_every_unknown_key_is_refused(key):
    with pytest.raises(InputError, match="is no setting; the nearest is"):
        settle(f"{key}=1")


@pytest.mark.parametrize(
    "key", ["aws_secret_access_key", "AWS_ACCESS_KEY_ID", "session-token", "password"]
)
def test_a_credential_is_refused_and_not_repeated(job_file, key):
    for config in (f"{key}=hush", job_file(f'{key} = "hush"\n')):
        with pytest.raises(
            InputError, match="credentials come from where the AWS"
        ) as caught:
            settle(config)
        assert key in str(caught.value)
        assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('limit = "5"', "limit must be a whole number, got '5'"),
        ("limit = true", "limit must be a whole number, got true"),
        ("limit = 5.0", "limit must be a whole number, got 5.0"),
        ("limit = [5]", "limit must be a whole number, got [5]"),
        ("anon = 1", "anon must be true or false, got 1"),
        ('anon = "true"', "anon must be true or false, got 'true'"),
        ("bundle = 5", "bundle must be text, got 5"),
        ("endpoint_url = 2024-01-01", "endpoint_url must be text, got datetime.date"),
        ('device = "tpu"', "device must be auto, cpu or cuda, got 'tpu'"),
        ("device = true", "device must be auto, cpu or cuda, got true"),
        ('precision = "fp16"', "precision must be fp32 or bf16, got 'fp16'"),
        ('commit = "two"', "commit must be conditional or single-driver, got 'two'"),
        ("patience = true", "patience must be seconds, or a time such as 90s, 15m or 2h"),
        ("patience = -1", "got -1"),
        ("patience = nan", "got nan"),
        ("patience = inf", "got inf"),
        ("patience = [1]", "got [1]"),
        (f"patience = 1{'0' * 400}", "patience must be seconds"),
        ('patience = "15 min"', "got '15 min'"),
        ("max_dead_letters = 0.5", "whole number, or a share of the items such as 1%"),
        ("max_dead_letters = true", "got true"),
        ('max_dead_letters = "-1%"', "got '-1%'"),
        ("on_error = 1", "on_error must be [STAGE=]dead-letter or [STAGE=]stop"),
        ('on_error = ["stop", 1]', "got ['stop', 1]"),
        ("probabilities = true", "probabilities must be all, or names or numbers of"),
        ("probabilities = [0.5]", "classes such as water,road, got [0.5]"),
        ('on_error = ["write=stop"]', "STAGE plan, read or segment, got ['write=stop']"),
    ],
    ids=lambda text: text[:30],
)
def test_a_wrong_value_of_a_file_is_refused(job_file, line, words):
    path = job_file(f"{line}\n")
    with pytest.raises(InputError) as caught:
        settle(path)
    assert words in str(caught.value)
    assert str(caught.value).endswith(f" in {path}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limit=", "limit must be a whole number, got ''"),
        ("limit=5.5", "got '5.5'"),
        ("anon=yes", "anon must be true or false, got 'yes'"),
        ("device=tpu", "device must be auto, cpu or cuda, got 'tpu'"),
        ("patience=soon", "got 'soon'"),
        ("patience=15M", "got '15M'"),
        ("patience=-5s", "got '-5s'"),
        (f"patience={'9' * 400}d", "patience must be seconds"),
        ("max_dead_letters=%", "got '%'"),
        ("max_dead_letters=1e1%", "got '1e1%'"),
        ("max_dead_letters=nan%", "got 'nan%'"),
        ("on_error=ignore", "got 'ignore'"),
        ("on_error=", "got ''"),
        ("on_error==stop", "got '=stop'"),
        ("on_error=read=", "got 'read='"),
        ("on_error=read=plan=stop", "got 'read=plan=stop'"),
    ],
    ids=lambda text: text[:30],
)
def test_a_wrong_value_of_the_command_line_is_refused(text, words):
    with pytest.raises(InputError) as caught:
        settle(text)
    assert str(caught.value).endswith(words) or words in str(caught.value)
    assert str(caught.value).startswith(f"{text.split('=')[0]} must be ")


@pytest.mark.parametrize(
    ("setting", "value"), [("on_error", "later"), ("max_dead_letters", "few")]
)
def test_a_wrong_value_of_the_policy_is_one_line(run, setting, value):
    code, out, err = run("label", "a", "b", "--bundle", "net", "-c", f"{setting}={value}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.endswith(f"got {value!r}\n")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"limit 5", "is not TOML: Expected '='"),
        (b'bundle = "\xff"', "is not TOML"),
        (b"limit = 1\nlimit = 2", "is not TOML"),
        (b"limit = " + b"[" * 9999, "is not TOML"),
        (b"shard-items = 1\nshard_items = 2", "shard_items is set twice in"),
        (b"[label]\nlimit = 5", "has a table [label]; keep its keys flat"),
        (b"access.anon = true", "has a table [access]; keep its keys flat"),
    ],
    ids=lambda text: str(text[:20]),
)
def test_a_wrong_file_is_refused(job_file, content, words):
    path = job_file(content)
    with pytest.raises(InputError) as caught:
        settle(path)
    assert words in str(caught.value)
    assert path in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    for path in (str(tmp_path / "none.toml"), str(tmp_path), "s3://bucket/job.toml"):
        with pytest.raises(InputError, match="give a local TOML file, or NAME=VALUE"):
            settle(path)


def test_a_path_may_hold_the_sign(tmp_path, monkeypatch):
    (tmp_path / "a=b.toml").write_text("limit = 5\n")
    monkeypatch.chdir(tmp_path)
    assert settle("./a=b.toml")["limit"] == 5


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("bands=0", "bands count from 1, got 0"),
        ("bands=1,b", "bands must be band numbers such as 4,3,2, got '1,b'"),
        ("value_range=1", "value_range must be two numbers such as 0,10000, got '1'"),
        ("value_range=2,1", "the lower one first, got 2,1"),
        ("resolution=-1", "resolution must be more than 0, got -1"),
        ("max_dead_letters=101%", "must be from 0% to 100%, got 101%"),
        ("max_dead_letters=-1", "must be at least 0, got -1"),
        ("decode_timeout=0", "decode_timeout must be more than 0 s, got 0"),
        ("max_pixels=0", "max_pixels must be at least 1, got 0"),
        ("max_bytes=0", "max_bytes must be at least 1, got 0"),
        ("file_bytes=0", "file_bytes must be at least 1, got 0"),
        ("limit=0", "limit must be at least 1, got 0"),
        ("threads=0", "threads must be at least 1, got 0"),
        ("crs=nowhere", "crs must be a CRS such as EPSG:3857, got 'nowhere'"),
        ("boundary_tolerance=-1", "boundary_tolerance must be 0 to 1000 px, got -1 px"),
        ("boundary_tolerance=near", "must be pixels such as 3, or a share of the"),
        ("boundary_tolerance=101%", "must be 0 to 100%, got 101%"),
        ("boundary_tolerance=nan", "must be 0 to 1000 px, got nan px"),
        ("truth_ignore=70000", "truth_ignore must be 0 to 65535, got 70000"),
        ("truth_ignore=a", "truth_ignore must be whole numbers such as 11,255, got 'a'"),
        ("truth_format=coco", "must be auto, folder, voc, cityscapes, parquet or raster"),
        ("endpoint_url=host", "must look like https://host[:port], got host"),
    ],
)
def test_what_is_out_of_range_is_refused_and_not_shown(run, setting, words):
    code, out, err = run("plan", _command_of(setting), "a", "--show-config", "-c", setting)
    assert (code, out) == (2, "")
    assert words in err


def _command_of(setting):
    name = setting.partition("=")[0]
    return next(command for command in JOBS if name in COMMANDS[command])


@pytest.mark.parametrize("command", JOBS)
def test_a_job_needs_a_bundle(run, command):
    assert run(command, "a", "b") == (
        2,
        "",
        "atrous: --bundle is missing; give a file, an s3:// location, or demo for ours\n",
    )


# What is right


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("limit", "100_000", 100_000),
        ("anon", "true", True),
        ("anon", "false", False),
        ("bundle", "a=b c", "a=b c"),
        ("device", "cuda", "cuda"),
        ("bands", "4, 3,2", (4, 3, 2)),
        ("value_range", "-1e3,0.5", (-1000.0, 0.5)),
        ("resolution", "10", 10.0),
        ("probabilities", "all", ("all",)),
        ("probabilities", "low vegetation, 3", ("low vegetation", "3")),
        ("allow_vrt", "/a, s3://b/c", ("/a", "s3://b/c")),
        ("truth_ignore", "11, 255", (11, 255)),
        ("truth_classes", "3=0,*=ignore", "3=0,*=ignore"),
        ("boundary_tolerance", "3", 3.0),
        ("boundary_tolerance", "1.5%", "1.5%"),
        ("patience", "90", 90.0),
        ("patience", "1.5", 1.5),
        ("patience", "90s", 90.0),
        ("patience", "15m", 900.0),
        ("patience", "15 m", 900.0),
        ("patience", "1.5h", 5400.0),
        ("patience", "2d", 172_800.0),
        ("patience", "0", 0.0),
        ("max_dead_letters", "0", 0),
        ("max_dead_letters", "12", 12),
        ("max_dead_letters", "0.1%", "0.1%"),
        ("max_dead_letters", "100%", "100%"),
        ("on_error", "stop", ("plan=stop", "read=stop", "segment=stop")),
        (
            "on_error",
            "segment=stop",
            ("plan=dead-letter", "read=dead-letter", "segment=stop"),
        ),
        (
            "on_error",
            "stop, read = dead-letter",
            ("plan=stop", "read=dead-letter", "segment=stop"),
        ),
        ("on_error", "read=dead-letter,stop", ("plan=stop", "read=stop", "segment=stop")),
    ],
)
def test_text_is_read(name, text, value):
    assert parse_setting(name, text) == value
    command = next(command for command in JOBS if name in COMMANDS[command])
    found = settle(f"{name}={text}", command=command)
    assert found[name] == value
    spaced = f" {name.replace('_', '-')} = {text} "
    assert settle(spaced, command=command)[name] == value


def test_a_time_may_be_a_number_or_text(job_file):
    path = job_file('patience = "15m"\ncapacity-timeout = 2\ndecode_timeout = 0.5\n')
    found = settle(path)
    times = ("patience", "capacity_timeout", "decode_timeout")
    assert [found[name] for name in times] == [900.0, 2.0, 0.5]


# There and back


VALUES = {
    FLAG: st.booleans(),
    WHOLE: st.integers(),
    TEXT: st.text(),
    NUMBER: st.floats(allow_nan=False, allow_infinity=False),
    BANDS: st.lists(st.integers()).map(tuple),
    SCALES: st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    RESIZE: st.just("none")
    | st.builds("{}={}".format, st.sampled_from(["long", "short"]), st.integers(1, 16_384)),
    RANGE: st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 2),
    NUMBERS: st.lists(st.integers()).map(tuple),
    DISTANCE: st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(0, 100, places=3).map("{:f}%".format),
    CLASSES: st.lists(st.text()).map(tuple),
    FLOORS: st.lists(st.text()).map(tuple),
    PLACES: st.lists(st.text()).map(tuple),
    SECONDS: st.floats(min_value=0, allow_nan=False, allow_infinity=False),
    SHARE: st.integers() | st.decimals(0, 100, places=3).map("{:f}%".format),
    REACTION: st.tuples(*[st.sampled_from(REACTIONS)] * len(STAGES)).map(
        lambda found: tuple(map("{}={}".format, STAGES, found))
    ),
}


def values_of(name):
    one = SETTINGS[name]
    choices = one.kind.choices
    values = st.sampled_from(choices) if choices else VALUES[one.kind]
    return values | st.none() if one.default is None else values


@pytest.mark.parametrize("command", JOBS)
@given(data=st.data())
def test_what_is_written_is_read_again(tmp_path_factory, command, data):
    settings = {name: data.draw(values_of(name), label=name) for name in COMMANDS[command]}
    path = tmp_path_factory.getbasetemp() / f"{command}.toml"
    path.write_bytes(write_job_file(command, settings).encode())
    assert settle(str(path), command=command) == settings


@pytest.mark.parametrize("command", JOBS)
def test_what_plan_shows_can_be_given_back(run, job_file, command):
    asked = [f"{name}={_typed(ANOTHER[name])}" for name in COMMANDS[command]]
    configs = [word for one in asked for word in ("-c", one)]
    code, out, err = run("plan", command, "a", "--show-config", *configs)
    assert (code, err) == (0, "")
    shown = {name.replace("-", "_"): value for name, value in tomllib.loads(out).items()}
    assert shown == {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in ANOTHER.items()
        if name in COMMANDS[command]
    }
    path = job_file(out)
    assert run("plan", command, "a", "--show-config", "-c", path) == (0, out, "")
    flags = ("--limit", 6, "--anon")
    changed = run("plan", command, "a", "--show-config", "-c", path, *flags)[1]
    assert changed == out.replace("limit = 5\n", "limit = 6\n")


def _typed(value):
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else value


@pytest.mark.parametrize("command", JOBS)
def test_what_is_not_set_is_shown_too(run, job_file, command):
    code, out, _ = run("plan", command, "nowhere", "--show-config")
    assert code == 0
    assert "\n# limit =\n" in out
    for name in COMMANDS[command]:
        assert re.search(rf"^(# )?{name} =", out, re.MULTILINE), name
    assert settle(job_file(out), command=command) == settle(command=command)


def test_settings_can_be_had_as_json(run):
    code, out, _ = run("plan", "map", "a", "--show-config", "--json", "-c", "limit=3")
    assert (code, out.count("\n")) == (0, 1)
    found = json.loads(out)
    assert list(found) == list(COMMANDS["map"])
    assert (found["limit"], found["bundle"], found["block"]) == (3, None, 4096)


def test_text_that_is_no_unicode_is_one_line():
    with pytest.raises(InputError, match="not UTF-8"):
        write_job_file("label", {"bundle": "\udcff"})
