"""The pool against its slow twin: a list in memory, worked off in order."""

from __future__ import annotations

import os
import signal
import sys
from collections import deque

import pytest

from cluster.local import run_local
from cluster.outcomes import Done, Lost, NoCapacityError, WorkerBugError, WorkerSpec
from cluster.pool import IN_FLIGHT, Size, run_pool

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def _workers_travel():
    """Actors cannot import test modules, so send the classes themselves."""
    from ray import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    yield
    cloudpickle.unregister_pickle_by_value(module)


class Doubler:
    """Doubles numbers; some are poison."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def process(self, item: int) -> tuple[int, int]:
        if item == 666:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 13 and self._first_time("killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if item == 404 or (item == 7 and self._first_time("raised")):
            raise ValueError(f"no {item}")
        return 2 * item, os.getpid()

    def _first_time(self, name: str) -> bool:
        try:
            with open(os.path.join(self.folder, name), "x"):  # noqa: PTH118, PTH123
                return True
        except FileExistsError:
            return False


class Unborn:
    """Cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no such bundle")


def feed(items):
    queue = deque(items)
    return lambda: queue.popleft() if queue else None


def run(items, folder, **size):
    spec = WorkerSpec(worker=Doubler, arguments=(str(folder),))
    return list(run_pool(spec, feed(items), Size(**{"replicas": 2, "cpus": 1} | size)))


@pytest.mark.usefixtures("ray_session")
def test_same_results_as_a_list(tmp_path):
    items = list(range(100, 140))
    spec = WorkerSpec(worker=Doubler, arguments=(str(tmp_path),))
    slow = [(done.item, done.value[0]) for done in run_local(spec, feed(items))]
    pool = [(done.item, done.value[0]) for done in run(items, tmp_path)]
    assert sorted(pool) == slow


@pytest.mark.usefixtures("ray_session")
def test_nothing_to_do_ends(tmp_path):
    assert run([], tmp_path) == []


@pytest.mark.usefixtures("ray_session")
def test_outcomes_may_bring_new_items(tmp_path):
    queue = deque([1])
    spec = WorkerSpec(worker=Doubler, arguments=(str(tmp_path),))
    seen = []
    for done in run_pool(
        spec, lambda: queue.popleft() if queue else None, Size(replicas=1, cpus=1)
    ):
        seen.append(done.item)
        if done.item < 20 and done.item != 7:
            queue.extend([3 * done.item, 3 * done.item + 1])
    assert sorted(seen) == [1, 3, 4, 9, 10, 12, 13, 27, 28, 30, 31, 36, 37, 39, 40]


@pytest.mark.usefixtures("ray_session")
def test_dead_actor_is_replaced_and_its_items_run_again(tmp_path):
    items = [1, 2, 13, *range(20, 60)]
    outcomes = run(items, tmp_path, replicas=1)
    assert sorted(done.item for done in outcomes) == items
    assert all(isinstance(done, Done) for done in outcomes)
    assert len({done.value[1] for done in outcomes}) == 2


@pytest.mark.usefixtures("ray_session")
def test_poison_is_given_up_and_the_rest_is_done(tmp_path):
    outcomes = run([*range(20, 30), 666], tmp_path, replicas=1)
    lost = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
    assert [outcome.item for outcome in lost] == [666]
    assert lost[0].attempts == 3
    assert len(outcomes) == 11


@pytest.mark.usefixtures("ray_session")
def test_exception_is_tried_once_more(tmp_path):
    assert sorted(done.item for done in run([6, 7, 8], tmp_path)) == [6, 7, 8]


@pytest.mark.usefixtures("ray_session")
def test_exception_twice_stops_the_pool(tmp_path):
    with pytest.raises(WorkerBugError, match="no 404"):
        run([1, 404, *range(20, 60)], tmp_path)


@pytest.mark.usefixtures("ray_session")
def test_worker_that_cannot_be_made_stops_the_pool():
    spec = WorkerSpec(worker=Unborn, arguments=())
    with pytest.raises(WorkerBugError, match="no such bundle"):
        list(run_pool(spec, feed([1]), Size(replicas=2, cpus=1)))


@pytest.mark.usefixtures("ray_session")
def test_cluster_too_small_is_said(tmp_path):
    with pytest.raises(NoCapacityError, match=r"each wants 99 CPUs .* has 4 CPUs, 0 GPUs"):
        run([1], tmp_path, cpus=99, capacity_timeout_s=2)


@pytest.mark.usefixtures("ray_session")
def test_items_in_flight_are_bounded(tmp_path):
    """The pool never takes more than the actors have room for."""
    queue, taken, seen = deque(range(30)), 0, 0

    def take():
        nonlocal taken
        taken += bool(queue)
        assert taken - seen <= 2 * IN_FLIGHT
        return queue.popleft() + 100 if queue else None

    spec = WorkerSpec(worker=Doubler, arguments=(str(tmp_path),))
    for _ in run_pool(spec, take, Size(replicas=2, cpus=1)):
        seen += 1
    assert seen == 30
