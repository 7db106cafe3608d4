"""The pool against its slow twin: a list in memory, worked off in order."""

from __future__ import annotations

import ctypes
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from pathlib import Path

import pytest

from cluster import line as line_module
from cluster import pool as pool_module
from cluster import replica as replica_module
from cluster.line import Line
from cluster.local import run_local
from cluster.nodes import Survey
from cluster.outcomes import (
    Done,
    Lost,
    NoCapacityError,
    Postponed,
    WorkerBugError,
    WorkerSpec,
)
from cluster.pool import Size, run_pool
from cluster.replica import IN_FLIGHT

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _workers_travel():
    """Actors cannot import test modules, so send the classes themselves."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(line_module, "_PAUSE_S", 0.1)


class UnpicklableError(Exception):
    """Cannot be made again from what it keeps."""

    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")


class Shards:
    """Does shards: a name, and steps such as ``ok:7`` or ``kill@2:7``.

    A step does what stands before the colon; after ``@`` stands how often, if not
    every time.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def process(self, item, attempt, announce):
        name, steps = item
        self._count("began", name)
        done = []
        for step in steps:
            if step in attempt.quarantined:
                done.append(f"{attempt.quarantined[step].kind}!{step}")
                continue
            announce(step)
            if (answer := self._act(step, attempt)) is not None:
                return answer
            done.append(step)
        return {"name": name, "steps": done, "pid": os.getpid(), "tries": attempt.number}

    def _act(self, step, attempt):
        act, _, times = step.split(":")[0].partition("@")
        if times and self._count(step, "") > int(times):
            return None
        return getattr(self, f"_{act}")(attempt)

    def _count(self, *what) -> int:
        path = self.folder / "-".join(what).replace(":", "_")
        with path.open("a") as file:
            file.write("x")
        return path.stat().st_size

    def _ok(self, _):
        return None

    def _slow(self, _):
        time.sleep(0.5)

    def _segv(self, _):
        ctypes.string_at(0)

    def _abort(self, _):
        os.abort()

    def _kill(self, _):
        os.kill(os.getpid(), signal.SIGKILL)

    def _freeze(self, _):
        (self.folder / "frozen").write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(1)  # this thread may get on for a moment

    def _exit(self, _):
        sys.exit(7)

    def _raise(self, _):
        raise ValueError("no such thing")

    def _unpicklable(self, _):
        raise UnpicklableError(1, 2)

    def _starve(self, _):
        raise MemoryError("no room")

    def _wait(self, attempt):
        return None if attempt.last else Postponed(reason="the store is away")

    def _always(self, _):
        return Postponed(reason="the store is away")


class Unborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such bundle")


class Stillborn:
    """Its maker dies of it."""

    def __init__(self) -> None:
        ctypes.string_at(0)


def feed(items):
    queue = deque(items)
    return lambda: queue.popleft() if queue else None


def shard(name, *steps):
    return (name, steps or (f"ok:{name}",))


def plain(count, *, slow=False):
    """Shards that do no harm."""
    act = "slow" if slow else "ok"
    return [shard(f"s{number}", f"{act}:s{number}") for number in range(count)]


@pytest.fixture
def run(ray_session, tmp_path):
    """Run items in a pool and return the outcomes, each item once."""
    assert ray_session["CPU"] == 4

    def start(items, **size):
        spec = WorkerSpec(worker=Shards, arguments=(str(tmp_path),))
        size = Size(**{"replicas": 2, "cpus": 1} | size)
        outcomes = list(run_pool(spec, feed(items), size))
        assert sorted(one.item for one in outcomes) == sorted(items)
        return {one.item[0]: one for one in outcomes}

    return start


@pytest.fixture
def began(tmp_path):
    """How often each shard was begun."""
    return lambda: {
        path.name.removeprefix("began-"): path.stat().st_size
        for path in tmp_path.glob("began-*")
    }


def boxes():
    return set(Path("/tmp").glob("atrous-box-*"))  # noqa: S108


def test_same_results_as_a_list(run, tmp_path):
    items = [shard(f"s{number:02}", "ok:a", f"ok:{number}") for number in range(40)]
    spec = WorkerSpec(worker=Shards, arguments=(str(tmp_path),))
    slow = {done.item[0]: done.value["steps"] for done in run_local(spec, feed(items))}
    before = boxes()
    assert {name: done.value["steps"] for name, done in run(items).items()} == slow
    assert boxes() <= before


def test_nothing_to_do_ends(run):
    assert run([]) == {}


@pytest.mark.usefixtures("ray_session")
def test_outcomes_may_bring_new_items(tmp_path):
    queue = deque([shard("1")])
    spec = WorkerSpec(worker=Shards, arguments=(str(tmp_path),))
    seen = []
    take = lambda: queue.popleft() if queue else None  # noqa: E731
    for done in run_pool(spec, take, Size(replicas=1, cpus=1)):
        number = int(done.item[0])
        seen.append(number)
        if number < 20:
            steps = [f"kill@1:{number}"] if number == 4 else []
            queue.extend([shard(str(3 * number), *steps), shard(str(3 * number + 1))])
    expected = [1]
    for number in expected:
        expected += [3 * number, 3 * number + 1] if number < 20 else []
    assert sorted(seen) == sorted(expected)


def test_step_that_crashes_is_quarantined_and_nobody_else_is_touched(
    run, began, monkeypatch
):
    seen = []
    bury = Line.bury

    def spy(self, call, death, **where):
        if call.item[0] == "bad":
            seen.append((death, where["step"], call.alone))
        return bury(self, call, death, **where)

    monkeypatch.setattr(Line, "bury", spy)
    bad = shard("bad", "ok:1", "segv:2", "ok:3")
    outcomes = run([*plain(6), bad, *plain(12)[6:]], replicas=1)
    assert outcomes["bad"].value["steps"] == ["ok:1", "crash!segv:2", "ok:3"]
    counts = began()
    assert counts.pop("bad") == 3
    assert sum(counts.values()) <= len(counts) + 1, "one may have been beside it"
    assert [(step, alone) for _, step, alone in seen] == [
        ("segv:2", False),
        ("segv:2", True),
    ]
    death = seen[0][0]
    assert (death.kind, death.reason) == ("crash", "segmentation fault (SIGSEGV)")
    assert death.traceback.splitlines()[2].startswith("Current thread")
    assert "in _segv" in death.traceback
    assert death.node


def test_deaths_of_every_kind(run, began):
    """Who is to blame loses a step; who is not loses nothing."""
    expected = {
        "two": ["crash!segv:1", "ok:2", "crash!abort:3"],
        "innocent": ["ok:1", "kill@2:2", "ok:3"],
        "killer": ["ok:1", "killed!kill:2", "ok:3"],
        "exit": ["exit@1:1"],
    }
    items = [
        shard(name, *(step.split("!")[-1] for step in steps))
        for name, steps in expected.items()
    ]
    outcomes = run([*items, *plain(8)], replicas=3)
    assert {name: outcomes[name].value["steps"] for name in expected} == expected
    counts = began()
    assert counts["two"] <= 5, "three deaths of its own, one beside another"
    assert counts["killer"] <= 6


def test_mishaps_that_kill_nobody(run, began):
    expected = {
        "big": (["starve@2:1", "ok:2"], 3),
        "huge": (["memory!starve:3"], 5),
        "late": (["wait@2:4"], 3),
        "odd": (["raise@1:5"], 2),
    }
    items = [
        shard(name, *(step.split("!")[-1] for step in steps))
        for name, (steps, _) in expected.items()
    ]
    outcomes = run([*items, *plain(4)])
    values = {name: outcomes[name].value for name in expected}
    assert {name: (one["steps"], one["tries"]) for name, one in values.items()} == expected
    assert began()["huge"] == 5
    assert len({done.value["pid"] for done in outcomes.values()}) <= 2


def test_postponed_for_ever_does_without_in_the_end(run):
    late = [shard("late", "wait:1", "ok:2"), shard("never", "always:1")]
    outcomes = run([*late, *plain(10, slow=True)], replicas=1, patience_s=1.5)
    assert outcomes["late"].value["steps"] == ["wait:1", "ok:2"]
    lost = outcomes.pop("never")
    assert isinstance(lost, Lost), "the last attempt may be lost too"
    assert lost.reason == "the store is away"
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())


def test_all_postponed_are_lost_and_say_nothing_of_the_items(run):
    outcomes = run([shard("a", "wait:1"), shard("b", "wait:2")], patience_s=1.5)
    for outcome in outcomes.values():
        assert isinstance(outcome, Lost)
        assert outcome.reason == "the store is away; waited for 1.5 s"
        assert outcome.attempts >= 2


@pytest.mark.parametrize(
    ("act", "message"), [("raise", "no such thing"), ("unpicklable", "1 and 2")]
)
@pytest.mark.usefixtures("ray_session")
def test_exception_twice_stops_the_pool_when_all_under_way_is_done(
    tmp_path, began, act, message
):
    spec = WorkerSpec(worker=Shards, arguments=(str(tmp_path),))
    slow = shard("slow", *(f"slow:{number}" for number in range(4)))
    items = [slow, shard("bug", f"{act}:1"), *plain(200)]
    seen = []
    with pytest.raises(WorkerBugError, match=message):
        seen.extend(
            outcome.item[0]
            for outcome in run_pool(spec, feed(items), Size(replicas=2, cpus=1))
        )
    assert "slow" in seen, "what was under way is not thrown away"
    counts = began()
    assert counts.pop("bug") == 2
    assert sorted(counts) == sorted(seen)
    assert len(seen) < 200, "no more is begun"


@pytest.mark.usefixtures("ray_session")
def test_worker_that_cannot_be_made_stops_the_pool():
    spec = WorkerSpec(worker=Unborn, arguments=())
    with pytest.raises(WorkerBugError, match="no such bundle"):
        list(run_pool(spec, feed([1]), Size(replicas=2, cpus=1)))


@pytest.mark.usefixtures("ray_session")
def test_worker_that_kills_its_maker_stops_the_pool(monkeypatch):
    monkeypatch.setattr(pool_module, "_UNBORN", 1)
    spec = WorkerSpec(worker=Stillborn, arguments=())
    with pytest.raises(WorkerBugError, match=r"1 replicas in a row .* fault \(SIGSEGV\)"):
        list(run_pool(spec, feed([1]), Size(replicas=1, cpus=1)))


def test_cluster_too_small_is_said(run):
    with pytest.raises(NoCapacityError, match=r"each wants 99 CPUs .* has 4 CPUs, 0 GPUs"):
        run([shard("1")], cpus=99, capacity_timeout_s=2)


@pytest.mark.usefixtures("ray_session")
def test_items_in_flight_are_bounded(tmp_path):
    """The pool never takes more than the replicas have room for."""
    queue, taken, seen = deque(plain(30)), 0, 0

    def take():
        nonlocal taken
        taken += bool(queue)
        assert taken - seen <= 2 * IN_FLIGHT
        return queue.popleft() if queue else None

    spec = WorkerSpec(worker=Shards, arguments=(str(tmp_path),))
    for _ in run_pool(spec, take, Size(replicas=2, cpus=1)):
        seen += 1
    assert seen == 30


def test_draining_node_gets_nothing_new(run, began, monkeypatch):
    """What runs there ends; then the replica goes, and another one comes."""
    import ray

    here = ray.nodes()[0]["NodeID"]
    told = []

    def survey():
        if len(began()) < 2 or told:
            return Survey()
        told.append(here)
        return Survey(draining=frozenset(told))

    monkeypatch.setattr(pool_module, "_SURVEY_S", 0.2)
    monkeypatch.setattr(pool_module, "survey", survey)
    outcomes = run(plain(8, slow=True), replicas=1)
    assert all(done.value["tries"] == 1 for done in outcomes.values())
    assert len({done.value["pid"] for done in outcomes.values()}) == 2


def test_a_replica_that_stands_still_is_replaced(run, tmp_path, monkeypatch):
    monkeypatch.setattr(pool_module, "_SURVEY_S", 0.2)
    monkeypatch.setattr(replica_module, "_SIGN_OF_LIFE_S", 0.2)
    monkeypatch.setattr(replica_module, "_SILENCE_S", {"ready": 3.0})
    items = [shard("frozen", "ok:1", "freeze@1:2"), *plain(4)]
    outcomes = run(items)
    assert outcomes["frozen"].value["steps"] == ["ok:1", "freeze@1:2"]
    assert all(isinstance(outcome, Done) for outcome in outcomes.values())
    frozen = int((tmp_path / "frozen").read_text())
    assert waits_for(lambda: not Path(f"/proc/{frozen}").exists()), "it was not ended"


def waits_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return condition()


def test_silent_cluster_is_given_up(run, monkeypatch):
    from cluster.outcomes import ClusterLostError

    monkeypatch.setattr(pool_module, "survey", lambda: None)
    monkeypatch.setattr(pool_module, "_SURVEY_S", 0.1)
    monkeypatch.setattr(pool_module, "_SILENCE_S", 1.0)
    with pytest.raises(ClusterLostError, match="has not answered for 1 s"):
        run(plain(200, slow=True))


def test_any_misfortune_leaves_one_outcome_each(run):
    """Random scripts against what a list of them would give."""
    dice = random.Random(169)
    acts = ["ok"] * 10 + ["kill@1", "segv", "starve@1", "wait@1", "raise@1", "exit@1"]
    items = []
    for number in range(8):
        steps = [f"{dice.choice(acts)}:{number}.{step}" for step in range(3)]
        if sum(step.startswith("raise") for step in steps) < 2:
            items.append(shard(f"s{number}", *steps))
    outcomes = run(items, replicas=3)
    for name, steps in items:
        expected = [f"crash!{step}" if "segv" in step else step for step in steps]
        assert outcomes[name].value["steps"] == expected
    assert Counter(type(outcome) for outcome in outcomes.values()) == {Done: len(items)}
