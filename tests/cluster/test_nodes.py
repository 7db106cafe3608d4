"""What befalls a real cluster: nodes and processes die, freeze, drain and fill up.

Each scenario is played by a driver of its own (``chaos_driver.py``) on three Ray
nodes on this machine, with health checks that are quicker than by default. The
promise is always the same: every item has one outcome.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

DRIVER = Path(__file__).with_name("chaos_driver.py")


@pytest.fixture
def play(tmp_path):
    """Play a scenario; what it reports, when all its items are accounted for."""

    def start(name, **environment):
        done = subprocess.run(  # noqa: S603 - our own script
            [sys.executable, DRIVER, name, tmp_path],
            env={**os.environ, "RAY_AUTH_MODE": "disabled", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        (line,) = done.stdout.splitlines()  # Ray's own messages are kept out of it
        return json.loads(line)

    return start


def cover(report, count, *, names=()):
    """Hold a report to one outcome for each item, all of them done."""
    expected = [f"item {number}" for number in range(count)] + list(names)
    assert report["error"] is None
    assert report["lost"] == []
    assert Counter(done["item"] for done in report["done"]) == Counter(expected)


def blamed(report):
    return {begun["item"] for begun in report["began"] if begun["alone"]}


def test_killed_actor_is_replaced(play):
    report = play("killed_actor")
    cover(report, 60)
    assert len({done["pid"] for done in report["done"]}) == 3
    assert 1 <= len(blamed(report)) <= 2


@pytest.mark.parametrize(
    "name", ["killed_node", "terminated_node", "killed_raylet", "frozen_node"]
)
def test_dead_node_is_nobodys_fault(play, name):
    """Also where its processes live on, or wake up later and go on working."""
    report = play(name)
    cover(
        report,
        {"killed_node": 40, "terminated_node": 24, "killed_raylet": 30}.get(name, 60),
    )
    assert blamed(report) == set()
    assert len(report["began"]) <= len(report["done"]) + 2


def test_killed_head_ends_the_pool_and_another_cluster_goes_on(play):
    report = play("killed_head")
    assert report["error"] == "ClusterLostError: Ray has not answered for 30 s"
    assert report["seconds"] < 60
    done = [one for one in report["done"] if int(one["item"].split()[1]) < 60]
    left = play("resumed", DONE=json.dumps(done[:40]))
    cover({**left, "done": left["done"] + done[:40]}, 60)


def test_draining_node_ends_what_it_has_and_leaves(play):
    report = play("drained_node")
    cover(report, 40)
    told = report["told"]
    there = [one["time"] for one in report["began"] if one["node"] == told["node"]]
    assert max(there) - told["time"] < 3
    assert told["node"] not in report["nodes"]
    assert len(report["began"]) == 40, "nothing is done twice"


def test_memory_monitor_kills_and_the_item_is_told(play):
    report = play("full_memory")
    cover(report, 8, names=["greedy"])
    (greedy,) = (one for one in report["done"] if one["item"] == "greedy")
    assert greedy["alone"]
    assert greedy["memory"] >= 1
    assert greedy["spared"] == {}


def test_poison_is_tried_elsewhere_and_quarantined(play):
    report = play("poisoned")
    cover(report, 16, names=["poison"])
    tries = [one for one in report["began"] if one["item"] == "poison"]
    assert [one["alone"] for one in tries] == [False, True, True]
    assert tries[0]["node"] != tries[1]["node"]
    assert tries[2]["spared"] == {"poison": "crash"}
    assert len(blamed(report)) <= 2


def test_cluster_that_got_too_small_is_said(play):
    report = play("too_small")
    assert report["error"].startswith("NoCapacityError: no replica could be placed in ")
    assert report["error"].endswith(
        "each wants 1 CPUs and 0 GPUs, the cluster has 0 CPUs, 0 GPUs"
    )
    assert report["seconds"] < 40


def test_nodes_come_and_go(play):
    report = play("grown")
    cover(report, 60)
    assert {one["node"] == report["first"] for one in report["done"]} == {True, False}
    assert {one["node"] for one in report["done"][-10:]}.isdisjoint({report["first"]})


@pytest.mark.parametrize("seed", ["1", "2"])
def test_random_strokes(play, seed):
    report = play("random_chaos", SEED=seed)
    cover(report, 100)
    assert sum(report["strokes"].values()) == 7
    assert not any(one["spared"] for one in report["done"])


KNOCK = """
import sys
from cluster.connect import connect
from cluster.outcomes import UnauthenticatedError

address, allow = sys.argv[1], sys.argv[2] == "allow"
try:
    with connect(address, allow_unauthenticated=allow):
        print("in")
except UnauthenticatedError as error:
    print(error)
except OSError as error:
    print("no answer", error)
"""


@pytest.fixture
def knock(tmp_path):
    """Connect to a cluster, with token authentication or not."""

    def start(cluster, mode, allow="forbid", *, address=None):
        environment = {key: os.environ[key] for key in os.environ if key != "RAY_AUTH_MODE"}
        environment["RAY_AUTH_TOKEN"] = "of-the-tests" * 3
        modes = {"unguarded": "disabled", "guarded": "token"}
        with subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, DRIVER, cluster, tmp_path],
            env={**environment, "RAY_AUTH_MODE": modes[cluster]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as head:
            address = address or head.stdout.readline().strip()
            done = subprocess.run(  # noqa: S603 - our own interpreter
                [sys.executable, "-c", KNOCK, address, allow],
                env={**environment, **({"RAY_AUTH_MODE": mode} if mode else {})},
                capture_output=True,
                text=True,
                check=False,
            )
            head.stdin.close()
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return start


@pytest.mark.parametrize(
    ("cluster", "mode", "allow", "answer"),
    [
        ("unguarded", None, "forbid", "token authentication, which is off here"),
        ("unguarded", "token", "forbid", "lets anybody in: set RAY_AUTH_MODE=token"),
        ("unguarded", "disabled", "allow", "in"),
        ("guarded", "token", "forbid", "in"),
    ],
)
def test_open_doors_are_not_entered(knock, cluster, mode, allow, answer):
    assert answer in knock(cluster, mode, allow)
