"""Where a storm takes place: a cluster that is made for it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import storm_processes as processes

TRIES = 3


class Grounds:
    """A cluster of our own, and those that went before it and are not quite dead."""

    def __init__(self, tell, nodes):
        self.tell = tell
        self.nodes_wanted = nodes
        self.root = os.getpid()
        self.address = None
        self.hosts = []
        self.open()

    def open(self):
        """Start a cluster; it is there when it has an address."""
        self.address = None
        self.hosts.append(Host(self.opened, self.nodes_wanted))

    def opened(self, host):
        if host is not self.hosts[-1]:
            return
        if host.failed:
            self.tell("the cluster did not start, once more")
            if len(self.hosts) <= TRIES:
                self.open()
        elif self.address is None:
            self.address = host.state["address"]
            self.tell(f"cluster at {self.address}")

    @property
    def pids(self):
        return [host.process.pid for host in self.hosts]

    @property
    def nodes(self):
        """Raylets that live, by the name of their node."""
        host = self.hosts[-1]
        if self.address is None or host.busy:
            return {}
        found = host.state["nodes"]
        return {name: pid for name, pid in found.items() if processes.lives(pid)}

    @property
    def gcs(self):
        return self.hosts[-1].state["gcs"]

    def ask(self, line):
        self.hosts[-1].ask(line)

    def end(self):
        """Kill what belongs to Ray itself; whoever depends on it must notice."""
        for host in self.hosts:
            host.process.kill()
        for one in processes.below(self.root):
            if Path(one.title.split(" ")[0]).name in {"raylet", "gcs_server"}:
                processes.send(one.pid, signal.SIGKILL)
        for host in self.hosts:
            host.process.wait()


class Host:
    """The process that holds a cluster."""

    def __init__(self, opened, nodes):
        self.state = None
        self.opened = opened
        self.asked, self.answered = 1, 0
        script = Path(__file__).with_name("storm_cluster.py")
        self.process = subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, script, str(nodes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self.listen, daemon=True).start()

    @property
    def failed(self):
        return self.state is None

    @property
    def busy(self):
        return self.asked > self.answered

    def ask(self, line):
        self.asked += 1
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def listen(self):
        for line in self.process.stdout:
            self.state = json.loads(line)
            self.answered += 1
            self.opened(self)
        if self.failed:
            self.opened(self)
