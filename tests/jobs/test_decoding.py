"""Decoders that hang, crash, lie and eat memory: each costs its own item alone."""

import contextlib
import io
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.errors import ItemError
from jobs.inputs import child as child_module
from jobs.inputs import decoding, images
from jobs.inputs.child import StalledError
from jobs.inputs.decoding import Decoders, close_decoders, decode_image, image_size
from jobs.label_job import LabelJob
from jobs.shards import Shard
from jobs.spec import Limits

TRAPS = """
import ctypes, os, resource, signal, sys, time
from pathlib import Path

from jobs.errors import ItemError

def fill(fields, data, empty):
    pixels, valid = empty(*fields["shape"])
    pixels[:], valid[:] = fields["value"], False
    return len(data)

def hang(fields, data, empty):
    # Native, with the interpreter's lock held.
    ctypes.PyDLL(None).sleep(1000)

def spin(fields, data, empty):
    while True:
        pass

def wait(fields, data, empty):
    time.sleep(fields["wait_s"])

def crash(fields, data, empty):
    ctypes.string_at(0)

def eat(fields, data, empty):
    eaten = []
    while True:
        eaten.append(b"x" * 2**24)

def abort(fields, data, empty):
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
    os.abort()

def leave(fields, data, empty):
    os._exit(fields["status"])

def die(fields, data, empty):
    with open(fields["diary"], "a") as diary:
        diary.write("died\\n")
    if Path(fields["diary"]).read_text().count("died") <= fields["times"]:
        os.kill(os.getpid(), fields["signal"])
    return "lived"

def refuse(fields, data, empty):
    raise ItemError(fields["code"], fields["message"])

def bug(fields, data, empty):
    raise AssertionError("ours to mend")

def say(fields, data, empty):
    # The decoder is hostile now: it writes what it likes.
    os.write(int(sys.argv[1]), bytes.fromhex(fields["hex"]))
    time.sleep(fields.get("wait_s", 0))
    os._exit(0)

def shrink(fields, data, empty):
    arrays = empty(3, 500, 500)
    for number in range(3, 20):
        path = f"/proc/self/fd/{number}"
        if os.path.lexists(path) and "atrous-pixels" in os.readlink(path):
            os.ftruncate(number, 4096)
            break
    return len(arrays)

KEPT = []

def keep(fields, data, empty):
    empty(3, 64, 64)[0][:] = 5
    KEPT.extend(
        os.dup(number)
        for number in range(3, 20)
        if os.path.lexists(f"/proc/self/fd/{number}")
        and "atrous-pixels" in os.readlink(f"/proc/self/fd/{number}")
    )

def cut(fields, data, empty):
    try:
        os.ftruncate(KEPT[0], 0)
    except PermissionError:
        return "refused"

def state(fields, data, empty):
    return {
        "pid": os.getpid(),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "limits": [resource.getrlimit(getattr(resource, name)) for name in fields["names"]],
        "group": os.getpgrp(),
        "interrupt": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
    }

ANSWERS = {name: value for name, value in globals().items() if callable(value)}
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="looks at processes as Linux shows them"
)


@pytest.fixture
def traps(tmp_path, monkeypatch):
    """Where a decoder finds the module of traps."""
    (tmp_path / "traps.py").write_text(TRAPS)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def decoders(traps):  # noqa: ARG001
    """Two decoders that may be told to do anything."""
    decoders = Decoders("traps", processes=2, memory_bytes=400 * 2**20)
    yield decoders
    decoders.close()


def ask(decoders, kind, *, seconds=30, data=b"", **fields):
    return decoders.ask(kind, fields, data, seconds=seconds)


def state_of(decoders, *names):
    return ask(decoders, "state", names=names)[0]


def check_good(decoders, value=7, shape=(3, 5, 4)):
    size, (pixels, valid) = ask(
        decoders, "fill", value=value, shape=shape, data=b"x" * value
    )
    assert size == value
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
    assert (valid.shape, valid.dtype) == (shape[1:], np.bool_)
    assert (pixels == value).all()
    assert not valid.any()


def failure(decoders, kind, **fields):
    with pytest.raises(ItemError) as caught:
        ask(decoders, kind, **fields)
    error = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (error.code, error.message) == (caught.value.code, caught.value.message)
    assert "\n" not in error.message
    return error.code, error.message


TRAPPED = {
    "hang": ({"seconds": 0.5}, "timed_out", "the decoder did not end within 0.5 s"),
    "spin": ({"seconds": 0.5}, "timed_out", "the decoder did not end within 0.5 s"),
    "crash": (
        {},
        "crashed_decoder",
        r"the decoder's process died of SIGSEGV in \S+ string_at < traps.py:\d+ crash.*",
    ),
    "eat": ({}, "out_of_memory", "decoding needs more memory than a decoder may take.*"),
    "abort": ({}, "out_of_memory", "decoding needs more memory than a decoder may take"),
    "leave": ({"status": 3}, "crashed_decoder", "the decoder's process left with status 3"),
}


@pytest.mark.parametrize("kind", TRAPPED)
def test_a_decoder_that_fails_costs_its_item_alone(decoders, kind):
    fields, code, message = TRAPPED[kind]
    done, stop = [], threading.Event()

    def decode(number):
        while not stop.is_set():
            check_good(decoders, value=number)
            done.append(number)

    threads = [threading.Thread(target=decode, args=[number]) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            found, text = failure(decoders, kind, **fields)
            assert found == code
            assert re.fullmatch(message, text)
        before = len(done)
        check_good(decoders)
        while len(done) < before + 9:
            assert any(thread.is_alive() for thread in threads)
            time.sleep(0.01)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert set(done) == {1, 2, 3}


def test_a_decoder_is_late_even_when_it_holds_the_interpreter(decoders):
    check_good(decoders)
    start = time.monotonic()
    failure(decoders, "hang", seconds=0.3)
    assert 0.3 <= time.monotonic() - start < 3


def test_who_waits_is_told_from_who_works(decoders):
    with pytest.raises(StalledError):
        ask(decoders, "wait", wait_s=99, seconds=0.4)
    with pytest.raises(ItemError) as caught:
        ask(decoders, "spin", seconds=1)
    assert not isinstance(caught.value, StalledError)


# Killed from outside


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGALRM])
def test_a_decoder_that_was_killed_once_is_no_reason(decoders, tmp_path, number):
    diary = tmp_path / "diary"
    fields = {"diary": str(diary), "signal": int(number)}
    assert ask(decoders, "die", times=1, **fields) == ("lived", None)
    assert diary.read_text() == "died\n" * 2


def test_a_decoder_that_is_killed_every_time_is_one(decoders, tmp_path):
    diary = tmp_path / "diary"
    fields = {"diary": str(diary), "signal": int(signal.SIGKILL), "times": 99}
    assert failure(decoders, "die", **fields) == (
        "crashed_decoder",
        "the decoder's process died of SIGKILL",
    )
    assert diary.read_text() == "died\n" * 2
    check_good(decoders)


def test_a_crash_is_not_tried_again(decoders, tmp_path):
    diary = tmp_path / "diary"
    fields = {"diary": str(diary), "signal": int(signal.SIGBUS), "times": 99}
    assert failure(decoders, "die", **fields)[1].startswith(
        "the decoder's process died of SIGBUS"
    )
    assert diary.read_text() == "died\n"


def test_one_that_dies_while_nobody_asks_is_replaced(decoders):
    pid = state_of(decoders)["pid"]
    os.kill(pid, signal.SIGKILL)
    check_good(decoders)
    assert state_of(decoders)["pid"] != pid


def test_a_machine_that_stood_still_makes_nobody_late(decoders, monkeypatch):
    now = iter(range(0, 10**9, 1000))
    monkeypatch.setattr(child_module.time, "monotonic", lambda: next(now))
    assert ask(decoders, "wait", wait_s=1.2, seconds=5) == (None, None)


# Refusals and bugs


def test_a_refusal_leaves_the_decoder_as_it_was(decoders):
    pid = state_of(decoders)["pid"]
    for code in ("undecodable", "unsupported", "too_large"):
        assert failure(decoders, "refuse", code=code, message="a\nb") == (code, "a b")
    assert state_of(decoders)["pid"] == pid


def test_no_memory_costs_the_decoder(decoders):
    pid = state_of(decoders)["pid"]
    text = "OSError: Cannot allocate memory"
    code, _ = failure(decoders, "refuse", code="undecodable", message=text)
    assert code == "out_of_memory"
    assert state_of(decoders)["pid"] != pid


def test_a_bug_of_ours_is_no_item_error(decoders):
    pid = state_of(decoders)["pid"]
    with pytest.raises(RuntimeError, match=r"(?s)has a bug:.*ours to mend"):
        ask(decoders, "bug")
    assert state_of(decoders)["pid"] != pid
    check_good(decoders)


def test_a_decoder_that_does_not_start_says_why(traps):
    (traps / "broken.py").write_text("raise ImportError('no such library')")
    decoders = Decoders("broken")
    for _ in range(3):  # nor is its place lost
        with pytest.raises(RuntimeError, match=r"(?s)did not start.*no such library"):
            ask(decoders, "fill")
    decoders.close()


HOSTILE = {
    "no length": "00",
    "endless": "ffffffff",
    "too long": "00000005" + "00" * 9,
    "no json": "03000000" + b"{}}".hex(),
    "a list": "02000000" + b"[]".hex(),
    "a pickle": "04000000" + pickle.dumps(1)[:4].hex(),
    "empty": "02000000" + b"{}".hex(),
    "deep": (40000).to_bytes(4, "little").hex() + b"[".hex() * 40000,
    "unknown code": "18000000" + b'{"refused": ["x", "yyy"]}'[:24].hex(),
    "a code of the store": "1d000000" + b'{"refused": ["crashed_", "m"]}'[:29].hex(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_nonsense_is_the_decoders_fault(decoders, name):
    code, message = failure(decoders, "say", hex=HOSTILE[name])
    assert code == "crashed_decoder"
    assert message
    check_good(decoders)


def test_half_an_answer_makes_it_late(decoders):
    code, _ = failure(decoders, "say", hex="09000000", wait_s=99, seconds=0.4)
    assert code == "timed_out"


def test_a_file_that_was_cut_short_is_not_mapped(decoders):
    # To read past its end would kill the replica.
    assert failure(decoders, "shrink")[0] == "crashed_decoder"
    check_good(decoders)


def test_a_file_cannot_be_cut_short_later(decoders):
    _, (pixels, _) = ask(decoders, "keep")
    assert ask(decoders, "cut") == ("refused", None)
    assert (pixels == 5).all()


# Arrays


def test_arrays_are_the_callers(decoders):
    arrays = [
        ask(decoders, "fill", value=value, shape=(2, 30, 40))[1] for value in range(9)
    ]
    decoders.close()
    for value, (pixels, valid) in enumerate(arrays):
        assert pixels.flags.c_contiguous
        assert pixels.flags.writeable
        assert valid.flags.writeable
        assert (pixels == value).all()
        pixels[:], valid[:] = 255, True
        assert valid.all()
    copy = pickle.loads(pickle.dumps(arrays[0][0]))  # noqa: S301 - our own
    assert (copy == 255).all()


def test_arrays_are_not_copied(decoders):
    _, (pixels, _) = ask(decoders, "fill", value=1, shape=(3, 64, 64))
    maps = Path("/proc/self/maps").read_text()
    address = pixels.__array_interface__["data"][0]
    (line,) = [
        one
        for one in maps.splitlines()
        if int(one.split("-")[0], 16) <= address < int(one.split("-")[1].split()[0], 16)
    ]
    assert "atrous-pixels" in line


def test_large_requests_arrive_whole(decoders):
    data = os.urandom(2**24 + 17)
    size, _ = ask(decoders, "fill", value=1, shape=(1, 1, 1), data=data)
    assert size == len(data)


def test_a_request_that_is_too_large_for_a_decoder(traps):  # noqa: ARG001
    decoders = Decoders("traps", memory_bytes=64 * 2**20)
    fields = {"value": 1, "shape": (1, 1, 1), "data": bytes(80 * 2**20)}
    assert failure(decoders, "fill", **fields)[0] == "out_of_memory"
    large = {"value": 1, "shape": (3, 5000, 5000)}
    assert failure(decoders, "fill", **large)[0] == "out_of_memory"
    check_good(decoders)
    decoders.close()


# Processes


def test_no_more_decoders_start_than_are_needed(traps, monkeypatch):  # noqa: ARG001
    started = []

    class Counted(child_module.Child):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            started.append(self.process.pid)

    monkeypatch.setattr(decoding, "Child", Counted)
    decoders = Decoders("traps", processes=3)
    for _ in range(5):
        check_good(decoders)
    assert len(started) == 1
    threads = [threading.Thread(target=check_good, args=[decoders]) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(started) <= 3
    decoders.close()
    for pid in started:
        assert not Path(f"/proc/{pid}").exists()
    check_good(decoders)
    decoders.close()


def test_a_decoder_is_replaced_before_it_can_leak_much(decoders, monkeypatch):
    monkeypatch.setattr(decoding, "_REQUESTS", 3)
    pids = [state_of(decoders)["pid"] for _ in range(7)]
    assert len(set(pids)) == 3
    assert pids == sorted(pids, key=pids.index)


def test_decoders_have_the_credentials_of_now(decoders, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "one")
    assert state_of(decoders)["environment"]["AWS_PROFILE"] == "one"
    monkeypatch.setenv("AWS_PROFILE", "two")
    assert state_of(decoders)["environment"]["AWS_PROFILE"] == "two"


def test_what_a_decoder_may_take_is_limited(traps):  # noqa: ARG001
    decoders = Decoders("traps", memory_bytes=300 * 2**20)
    found = state_of(decoders, "RLIMIT_AS", "RLIMIT_FSIZE", "RLIMIT_CORE")
    space, files, core = found["limits"]
    assert 300 * 2**20 < space[0] == space[1] < 800 * 2**20
    assert files == [300 * 2**20] * 2
    assert core == [0, 0]
    assert found["environment"]["OMP_NUM_THREADS"] == "1"
    assert "VRT" in found["environment"]["GDAL_SKIP"].split(",")
    decoders.close()


def test_ctrl_c_is_not_for_decoders(decoders):
    found = state_of(decoders)
    assert found["group"] == found["pid"] != os.getpgrp()
    assert found["interrupt"]
    os.kill(found["pid"], signal.SIGINT)
    assert state_of(decoders)["pid"] == found["pid"]


def test_the_users_folder_does_not_matter(decoders, tmp_path, monkeypatch):
    """It may hold modules called like ours, or be gone."""
    folder = tmp_path / "here"
    for name in ("jobs/inputs/decoder.py", "numpy.py", "json.py"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    check_good(decoders)
    decoders.close()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    check_good(decoders)
    assert state_of(decoders)["folder"] == "/"


def test_a_decoder_loads_neither_torch_nor_a_store():
    code = """
import sys
import jobs.inputs.decoder, jobs.inputs.images, jobs.inputs.rasters
print(sorted({name.split(".")[0] for name in sys.modules}))
"""
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    found = set(re.findall(r"\w+", done.stdout))
    assert "rasterio" in found
    assert found.isdisjoint({"torch", "ray", "s3fs", "aiohttp", "pyarrow"})


def children():
    """Pids of this process's children, the dead that nobody waited for included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid():
                found.append(int(path.parent.name))
    return found


def descriptors():
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_failures_leave_nothing_behind(decoders):
    def fail():
        failure(decoders, "crash")
        failure(decoders, "leave", status=1)
        failure(decoders, "say", hex="00")
        failure(decoders, "shrink")
        failure(decoders, "refuse", code="undecodable", message="m")
        check_good(decoders)

    fail()
    before = descriptors(), len(children())
    for _ in range(5):
        fail()
    assert (descriptors(), len(children())) == before
    decoders.close()
    assert descriptors() < before[0]


ORPHAN = """
import os, sys, threading
from jobs.inputs.decoding import Decoders
decoders = Decoders("traps")
print(decoders.ask("state", {"names": []}, seconds=60)[0]["pid"], flush=True)
if sys.argv[1] == "hang":
    threading.Timer(0.3, lambda: os.kill(os.getpid(), 9)).start()
    decoders.ask("hang", {}, seconds=1)
if sys.argv[1] == "idle":
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("how", ["hang", "idle", "end"])
def test_a_decoder_does_not_outlive_its_replica(traps, how):
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", ORPHAN, how],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(traps), *sys.path])},
        text=True,
        check=False,
    )
    assert done.returncode == (0 if how == "end" else -signal.SIGKILL)
    pid, start = int(done.stdout), time.monotonic()
    while is_running(pid):
        assert time.monotonic() - start < 8  # 1 s that it may take, and its grace
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Images


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_an_image_is_what_it_is_without_a_decoder():
    noise = np.random.default_rng(0).integers(0, 256, (1300, 900, 4)).astype(np.uint8)
    for image in (
        Image.fromarray(noise),
        Image.fromarray(noise[:, :, :3]),
        Image.fromarray(noise[:, :, 0]),
        Image.fromarray(noise[:, :, :2].copy().view(np.uint16)[:, :, 0]),
    ):
        (pixels, valid), origin = decode_image(encoded(image))
        (expected, known), told = images.decode_image(encoded(image))
        assert origin == told
        np.testing.assert_array_equal(pixels, expected)
        np.testing.assert_array_equal(valid, known)


def test_the_size_of_an_image_is_read_from_its_header():
    head = encoded(Image.new("RGB", (40, 50)), "JPEG")[:-9]
    assert image_size(head) == images.image_size(head) == (50, 40)
    with pytest.raises(ItemError):
        image_size(b"nothing")


def test_the_users_limits_hold():
    data = encoded(Image.new("RGB", (40, 50)))
    with pytest.raises(ItemError) as caught:
        decode_image(data, limits=Limits(max_pixels=1999))
    assert caught.value.code == "too_large"
    assert decode_image(data, limits=Limits(max_pixels=2000))[0][0].shape == (3, 50, 40)
    large = encoded(Image.new("RGB", (9000, 9000)))
    with pytest.raises(ItemError) as caught:
        decode_image(large, limits=Limits(seconds=0.05))
    assert caught.value.code == "timed_out"


def test_decoders_can_be_closed_and_asked_again():
    data = encoded(Image.new("RGB", (4, 5), (1, 2, 3)))
    for _ in range(2):
        (pixels, _), _ = decode_image(data)
        assert pixels[:, 0, 0].tolist() == [1, 2, 3]
        close_decoders()


def test_a_file_of_too_many_bytes_is_not_even_fetched(make_spec, make_items):
    """Nor decoded, where its size was not known before."""
    job = LabelJob(spec=make_spec(limits=Limits(max_bytes=99)))
    large, small = make_items(100, 99)
    shard = Shard(index=0, items=(large, small))
    with pytest.raises(ItemError, match="too_large: 100 bytes exceed 99; see -c max_bytes"):
        job.read(shard, large)
    with pytest.raises(ItemError, match="too_large: 100 bytes"):
        decode_image(bytes(100), limits=Limits(max_bytes=99))
    with pytest.raises(ItemError, match="undecodable"):
        decode_image(bytes(99), limits=Limits(max_bytes=99))
