"""A driver on a cluster of three nodes to which something happens; not a test.

Run as ``chaos_driver.py SCENARIO FOLDER``; prints one JSON object. A process of its
own, because Ray may end it, and because the other tests have a session open.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import signal
import sys
import time
from collections import Counter, deque
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from cluster.connect import connect
from cluster.outcomes import PoolError, WorkerSpec
from cluster.pool import Size, run_pool

FAST = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
PAUSE_S = 0.25


class Shards:
    """Notes where and how each item was tried; some items do harm."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def process(self, item, attempt, announce):
        announce(item)
        where = {
            "item": item,
            "node": ray.get_runtime_context().get_node_id(),
            "pid": os.getpid(),
            "try": attempt.number,
            "alone": attempt.alone,
            "memory": attempt.out_of_memory,
            "spared": {step: death.kind for step, death in attempt.quarantined.items()},
            "time": time.time(),
        }
        with (self.folder / "began.jsonl").open("a") as file:
            file.write(json.dumps(where) + "\n")
        if item == "poison" and item not in attempt.quarantined:
            ctypes.string_at(0)
        if item == "greedy" and not attempt.out_of_memory:
            self.eat()
        time.sleep(PAUSE_S)
        return where

    def eat(self):
        eaten = []
        while len(eaten) < 100:
            eaten.append(bytearray(os.urandom(1024)) * (100 << 10))
            time.sleep(0.05)


class Stage:
    """The cluster, the pool on it, and what happens after so many outcomes."""

    def __init__(self, folder, *, nodes=2, config=None):
        self.folder = Path(folder)
        head = {
            "num_cpus": 0,
            "include_dashboard": False,
            "_system_config": {**FAST, **(config or {})},
        }
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = {}
        for _ in range(nodes):
            self.add()

    def add(self):
        node = self.cluster.add_node(num_cpus=1)
        self.nodes[node.node_id] = node

    def run(self, items, events=(), **size):
        """Work items off; ``events`` maps a number of outcomes to what happens then."""
        queue, events = deque(items), dict(events)
        take = lambda: queue.popleft() if queue else None  # noqa: E731
        spec = WorkerSpec(worker=Shards, arguments=(str(self.folder),))
        size = Size(**{"replicas": 2, "cpus": 1, "capacity_timeout_s": 60} | size)
        found, error, start = [], None, time.monotonic()
        with connect(self.cluster.address, allow_unauthenticated=True):
            try:
                for outcome in run_pool(spec, take, size):
                    value = getattr(outcome, "value", None)
                    found.append((outcome.item, value))
                    if len(found) in events:
                        events[len(found)](value)
            except PoolError as caught:
                error = f"{type(caught).__name__}: {caught}"
            seconds = time.monotonic() - start
            alive = [] if error else [one["NodeID"] for one in ray.nodes() if one["Alive"]]
        return {
            "done": [value for _, value in found if value],
            "lost": [item for item, value in found if not value],
            "error": error,
            "seconds": seconds,
            "began": self.began(),
            "nodes": alive,
        }

    def began(self):
        path = self.folder / "began.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    def raylet(self, value):
        node = self.nodes[value["node"]]
        return node.all_processes["raylet"][0].process.pid


def say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def items(count):
    return [f"item {number}" for number in range(count)]


def killed_actor(stage):
    return stage.run(items(60), {3: lambda value: os.kill(value["pid"], signal.SIGKILL)})


def killed_node(stage):
    def kill(value):
        stage.cluster.remove_node(stage.nodes[value["node"]], allow_graceful=False)
        stage.add()

    return stage.run(items(40), {4: kill})


def terminated_node(stage):
    return stage.run(
        items(24),
        {4: lambda v: stage.cluster.remove_node(stage.nodes[v["node"]])},
    )


def frozen_node(stage):
    frozen = []

    def stop(value):
        frozen.extend([stage.raylet(value), value["pid"]])
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)

    def wake(_):
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

    # By then the others have done enough for the node to be given up.
    report = stage.run(items(60), {4: stop, 40: wake})
    report["frozen"] = frozen[1]
    return report


def killed_raylet(stage):
    return stage.run(items(30), {4: lambda v: os.kill(stage.raylet(v), signal.SIGKILL)})


def killed_head(stage):
    head = stage.cluster.head_node.all_processes["gcs_server"][0].process.pid
    return stage.run(items(1000), {4: lambda _: os.kill(head, signal.SIGKILL)})


def resumed(stage):
    """After ``killed_head``, elsewhere: what is left is done."""
    done = {value["item"] for value in json.loads(os.environ["DONE"])}
    return stage.run([item for item in items(60) if item not in done])


def drained_node(stage):
    told = {}

    def drain(value):
        deadline = int(time.time() * 1000) + 60_000
        reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION
        client = GcsClient(address=stage.cluster.address)
        client.drain_node(value["node"], reason, "spot", deadline)
        told.update(node=value["node"], time=time.time())

    report = stage.run(items(40), {4: drain})
    return {**report, "told": told}


def full_memory(stage):
    return stage.run(["greedy", *items(8)])


def poisoned(stage):
    return stage.run([*items(6), "poison", *items(16)[6:]])


def too_small(stage):
    def remove(_):
        for node in stage.nodes.values():
            stage.cluster.remove_node(node, allow_graceful=False)

    return stage.run(items(1000), {4: remove}, capacity_timeout_s=5)


def grown(stage):
    first = list(stage.nodes)

    def remove(_):
        stage.cluster.remove_node(stage.nodes[first[0]])

    report = stage.run(items(60), {4: lambda _: stage.add(), 40: remove})
    return {**report, "first": first[0]}


def random_chaos(stage):
    """For half a minute something dies now and then."""
    dice = random.Random(int(os.environ.get("SEED", "1")))
    strokes = Counter()

    def strike(value):
        kind = dice.choice(["actor", "actor", "node", "raylet"])
        strokes[kind] += 1
        with contextlib.suppress(ProcessLookupError, KeyError):
            if kind == "actor":
                os.kill(value["pid"], signal.SIGKILL)
                return
            node = stage.nodes.pop(value["node"])
            if kind == "node":
                stage.cluster.remove_node(node, allow_graceful=dice.random() < 0.5)
            else:
                os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            stage.add()

    events = dict.fromkeys(range(8, 90, 12), strike)
    report = stage.run(items(100), events)
    return {**report, "strokes": strokes}


def memory_threshold():
    """A little above what is in use now."""
    found = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(found[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return (total - free + (3 << 20)) / total


def unguarded(stage):
    """Hold a cluster for others to knock at."""
    say(stage.cluster.address)
    sys.stdin.read()
    return {}


guarded = unguarded  # by RAY_AUTH_MODE


def main(name, folder):
    config = {"memory_usage_threshold": memory_threshold()} if name == "full_memory" else {}
    nodes = 1 if name == "grown" else 2
    report = globals()[name](Stage(folder, nodes=nodes, config=config))
    say(json.dumps(report))
    os._exit(0)  # what is left of the cluster dies with its reaper


if __name__ == "__main__":
    main(*sys.argv[1:])
