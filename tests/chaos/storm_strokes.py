"""What may happen to a run: each stroke says what it did, or None if it found nobody."""

import functools
import os
import signal

import storm_processes as processes


def busy(storm):
    """Replicas that have a shard, if they had a chance to do one."""
    return [one for one in storm.replicas() if one.works] if storm.ripe else []


def kill_replica(storm):
    return kill_one(storm, busy(storm))


def kill_newborn(storm):
    """One that is being made, or waits."""
    return kill_one(storm, [one for one in storm.replicas() if not one.works])


def kill_one(storm, found):
    if not found:
        return None
    victim = storm.dice.choice(found)
    processes.send(victim.pid, signal.SIGKILL)
    return f"{victim.pid} ({victim.title}), one of {len(found)}"


def kill_decoder(storm):
    family = processes.below(os.getpid())
    return kill_one(storm, [one for one in family if one.is_decoder and one.lives])


def freeze_replica(storm):
    """It wakes up when its shard may be somebody else's."""
    found = busy(storm)
    if not found:
        return None
    return freeze(storm, [storm.dice.choice(found).pid], storm.dice.uniform(3, 9))


def freeze_node(storm):
    """Long enough to be declared dead; what it holds then goes on."""
    name, raylet = pick_node(storm)
    if name is None:
        return None
    family = [one.pid for one in processes.below(raylet) if one.lives]
    storm.grounds.ask("add")
    return freeze(storm, [raylet, *family], storm.dice.uniform(7, 14))


def freeze(storm, pids, seconds):
    for pid in pids:
        processes.send(pid, signal.SIGSTOP)

    def wake():
        woken = [pid for pid in pids if processes.send(pid, signal.SIGCONT)]
        storm.tell(f"awake: {woken}")

    storm.later(seconds, wake)
    return f"{pids} for {seconds:.1f} s"


def kill_node(storm):
    """As when its power fails, but that its replicas have a moment left."""
    name, raylet = pick_node(storm)
    if name is None:
        return None
    storm.grounds.ask(f"remove {name}")
    storm.grounds.ask("add")
    return f"{name[:8]} with raylet {raylet}"


def kill_raylet(storm):
    """Its replicas do not notice, as long as nobody reaps it: they work on."""
    name, raylet = pick_node(storm)
    if name is None:
        return None
    processes.send(raylet, signal.SIGKILL)
    storm.grounds.ask("add")
    return f"{name[:8]} with raylet {raylet}"


def pick_node(storm):
    """The name of a node that works, and the process of its raylet."""
    nodes = storm.grounds.nodes
    raylets = {one.parent for one in busy(storm)}
    found = sorted(name for name, pid in nodes.items() if pid in raylets)
    if not found:
        return None, None
    name = storm.dice.choice(found)
    return name, nodes[name]


def kill_head(storm):
    """The head node dies; old nodes, replicas and drivers live for another minute."""
    if not works(storm):
        return None
    processes.send(storm.grounds.gcs, signal.SIGKILL)
    storm.grounds.open()
    if storm.dice.random() < 0.5:
        for driver in storm.drivers:
            driver.send(signal.SIGKILL)
        return "with its drivers"
    # The next one starts beside those of before, on the cluster that comes.
    storm.later(0, functools.partial(launch_when_open, storm))
    return "alone"


def launch_when_open(storm):
    address = storm.grounds.address
    if address is None:
        storm.later(0.5, functools.partial(launch_when_open, storm))
    elif not storm.finished and address not in [one.address for one in storm.drivers]:
        storm.launch()


def works(storm):
    """Whether the cluster is there, and it is time to strike who works."""
    return storm.grounds.address and busy(storm)


def kill_driver(storm):
    return send_to_driver(storm, signal.SIGKILL) if works(storm) else None


def kill_young_driver(storm):
    """One that plans, or looks for room."""
    return None if storm.replicas() else send_to_driver(storm, signal.SIGKILL)


def terminate_driver(storm):
    return send_to_driver(storm, signal.SIGTERM) if works(storm) else None


def send_to_driver(storm, number):
    found = [one for one in storm.drivers if one.killed_by is None]
    if not found:
        return None
    driver = storm.dice.choice(found)
    driver.send(number)
    return driver.name


def second_driver(storm):
    if not works(storm):
        return None
    driver = storm.launch()
    if storm.dice.random() < 0.5:
        seconds = storm.dice.uniform(8, 14)

        def end():
            if driver in storm.drivers and driver.killed_by is None:
                storm.tell(f"{driver.name} is killed")
                driver.send(signal.SIGKILL)

        storm.later(seconds, end)
    return driver.name


FAULTS = {
    "slow_down": ((3, 6), {"fault": "status", "status": 503, "code": "SlowDown"}),
    "server_error": ((3, 6), {"fault": "status", "status": 500, "code": "InternalError"}),
    "reset": ((2, 5), {"fault": "reset"}),
    "lose": ((4, 8), {"method": "PUT", "fault": "lose", "times": 12}),
    "half": ((4, 8), {"method": "GET", "fault": "half", "times": 2}),
    "stall": ((4, 8), {"method": "GET", "fault": "stall", "times": 3, "seconds": 30}),
    "hang": ((4, 8), {"fault": "hang", "times": 4, "seconds": 30}),
    "deaf": ((4, 8), {"method": "PUT", "fault": "deaf", "times": 3, "seconds": 30}),
    "drip": (
        (4, 8),
        {"method": "GET", "fault": "drip", "times": 20, "pieces": 6, "seconds": 0.5},
    ),
}
"""How long, and what the proxy does; a body is never bad often enough to be blamed."""


def fault(name, storm):
    if not storm.drivers:
        return None
    span, rule = FAULTS[name]
    seconds = storm.dice.uniform(*span)
    storm.burst(rule, seconds)
    return f"for {seconds:.1f} s"


STROKES = {
    act.__name__: act
    for act in (
        kill_replica,
        kill_newborn,
        kill_decoder,
        freeze_replica,
        freeze_node,
        kill_node,
        kill_raylet,
        kill_head,
        kill_driver,
        kill_young_driver,
        terminate_driver,
        second_driver,
    )
} | {name: functools.partial(fault, name) for name in FAULTS}
