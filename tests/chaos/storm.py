"""One command, given again until it ends well, while everything around it fails.

A script, run in a process of its own: ``storm.py CONFIG``, a file of JSON:

    seed, strokes    what happens; the seed draws when, and to whom
    records          least and most to be done before each blow
    every_s          shortest and longest pause before each stroke
    storm_s          after this it is calm
    command          to be started; ``--address`` is added
    proxy, rules     the fault proxy, and its rules while nothing special happens
    ledger           lists the run's records
    nodes            of the cluster, beside its head; 0: the head alone
    limit_s          for everything
    folder           takes what the drivers print

Prints a report as JSON: what happened when, how each driver ended, who is left.
"""

import functools
import http.client
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import storm_processes as processes
from storm_grounds import Grounds
from storm_strokes import FAULTS, STROKES

FINAL = {0, 3}
NEXT = 3
"""So many strokes are tried before the one whose turn it is must wait."""

LONGEST_S = 30.0
"""After so long something happens, whether the run gets on or not."""

DEATH_S = 20.0
"""How long replicas and decoders may take to notice that their cluster is gone."""

DRIVER_END_S = 60.0


def ask(method, url, data=None):
    parts = urlsplit(url)
    server = http.client.HTTPConnection(parts.netloc, timeout=30)
    server.request(method, f"{parts.path}?{parts.query}", data)
    answer = server.getresponse().read()
    server.close()
    return answer


class Driver:
    """The real command under way."""

    def __init__(self, number, command, folder):
        self.name = f"driver {number}"
        self.log = folder / f"driver-{number}.log"
        self.address = command[-1]
        self.killed_by = None
        self.deadline = None
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: S603 - ours
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONFAULTHANDLER": "1"},
            )

    def send(self, number):
        self.killed_by = signal.Signals(number).name
        self.deadline = time.monotonic() + DRIVER_END_S
        self.process.send_signal(number)

    def words(self):
        """What it printed last."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line[:400] for line in lines if line.strip()][-40:]


class Storm:
    def __init__(self, config):
        self.config = config
        self.dice = random.Random(config["seed"])
        self.start = time.monotonic()
        self.parent = os.getppid()
        self.folder = Path(config["folder"])
        self.events, self.problems, self.ends = [], [], []
        self.struck = Counter()
        self.timers = []
        self.drivers, self.started = [], 0
        self.finished = False
        self.records = 0
        self.note_blow()
        self.rules, self.bursts = config["rules"], []
        self.set_proxy()
        token = secrets.token_hex(32)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        self.grounds = Grounds(self.tell, config["nodes"])

    # What the strokes use

    def tell(self, text):
        seconds = time.monotonic() - self.start
        self.events.append(f"{seconds:6.1f} s {self.records:3} records  {text}")

    def later(self, seconds, act):
        self.timers.append((time.monotonic() + seconds, act))

    def launch(self):
        """Start the command, once more or beside another."""
        self.started += 1
        command = [*self.config["command"], "--address", self.grounds.address]
        driver = Driver(self.started, command, self.folder)
        self.drivers.append(driver)
        self.tell(f"{driver.name} starts on {self.grounds.address}")
        return driver

    def replicas(self):
        """Replicas that are awake."""
        found = processes.below(os.getpid())
        return [one for one in found if one.is_replica and one.lives and one.state != "T"]

    def burst(self, rule, seconds):
        """Have the proxy do wrong for a while; the latest of several goes first."""
        self.bursts.insert(0, rule)
        self.set_proxy()
        self.later(seconds, functools.partial(self.end_burst, rule))

    def end_burst(self, rule):
        self.bursts.remove(rule)
        self.set_proxy()

    def set_proxy(self):
        rules = json.dumps([*self.bursts, *self.rules]).encode()
        ask("PUT", f"{self.config['proxy']}/-/rules", rules)

    def look_at_ledger(self):
        """Count the records, past the proxy."""
        self.records = ask("GET", self.config["ledger"]).count(b"<Key>")
        if not self.finished:
            self.later(1, self.look_at_ledger)

    @property
    def ripe(self):
        """Whether something was done since the last blow, or will not be for long."""
        waited = time.monotonic() - self.blow_at
        return self.records >= self.blow_records + self.step or waited > LONGEST_S

    def note_blow(self):
        self.blow_at, self.blow_records = time.monotonic(), self.records
        self.step = self.dice.randint(*self.config["records"])

    # The storm

    def run(self):
        """Strike again and again, then let it end."""
        strokes = list(self.config["strokes"])
        while self.grounds.address is None and not self.late:
            self.tick()  # before there is a cluster nobody can be struck
        self.look_at_ledger()
        end = time.monotonic() + self.config["storm_s"]
        while strokes and not self.is_over(end):
            self.wait(self.dice.uniform(*self.config["every_s"]), end)
            while not self.strike(strokes) and not self.is_over(end):
                self.tick()
        if strokes:
            self.tell(f"nobody was found for {', '.join(strokes)}")
        self.tell("calm")
        self.records_in_the_storm = self.records
        self.rules = []
        self.set_proxy()
        while (self.drivers or not self.finished or self.timers) and not self.late:
            self.tick()
        self.give_up()
        self.leave()

    @property
    def late(self):
        return time.monotonic() - self.start > self.config["limit_s"]

    def is_over(self, end):
        return self.finished or self.late or time.monotonic() > end

    def wait(self, seconds, end):
        until = time.monotonic() + seconds
        while not self.is_over(min(until, end)):
            self.tick()

    def strike(self, strokes):
        """Do one of the next strokes, the first that finds somebody, if any does.

        A fault of the store hits anybody, so it waits for its turn.
        """
        for name in strokes[:NEXT]:
            done = None
            if name not in FAULTS or name == strokes[0]:
                done = STROKES[name](self)
            if done:
                if name not in FAULTS:
                    self.note_blow()
                strokes.remove(name)
                self.struck[name] += 1
                self.tell(f"{name}: {done}")
                return True
        return False

    def tick(self):
        """What goes on all the time."""
        if os.getppid() != self.parent:
            sys.exit("nobody waits for the end of this storm")
        now = time.monotonic()
        due = [act for when, act in self.timers if when <= now]
        self.timers = [timer for timer in self.timers if timer[0] > now]
        for act in due:
            act()
        for driver in list(self.drivers):
            self.look_after(driver)
        if not self.drivers and not self.finished and self.grounds.address:
            self.launch()
        processes.bury({*self.grounds.pids, *(one.process.pid for one in self.drivers)})
        time.sleep(0.05)

    def look_after(self, driver):
        code = driver.process.poll()
        if code is None:
            if driver.deadline and time.monotonic() > driver.deadline:
                self.accuse(driver, f"did not end in {DRIVER_END_S:g} s, see above")
            return
        self.drivers.remove(driver)
        words = driver.words()
        self.ends.append(
            {
                "driver": driver.name,
                "code": code,
                "signal": driver.killed_by,
                "address": driver.address,
                "words": words[-12:],
            }
        )
        self.tell(f"{driver.name} ends with {code}: {words[-1] if words else 'not a word'}")
        if code in FINAL:
            self.finished = True
            for other in self.drivers:
                # The other one has nothing left to do either.
                other.deadline = other.deadline or time.monotonic() + 2 * DRIVER_END_S

    def accuse(self, driver, text):
        """Have a driver that hangs say where, and end it."""
        driver.process.send_signal(signal.SIGABRT)
        try:
            driver.process.wait(5)
        except subprocess.TimeoutExpired:
            driver.process.kill()
            driver.process.wait()
        self.problems.append(f"{driver.name} {text}: {driver.words()}")
        driver.deadline = None

    def give_up(self):
        for driver in list(self.drivers):
            self.accuse(driver, f"is under way after {self.config['limit_s']} s")
            self.look_after(driver)
        if not self.finished:
            self.problems.append("the run did not end")

    def leave(self):
        """Take the cluster away, and see who stays."""
        for _, act in self.timers:
            act()
        self.tell("the end")
        self.grounds.end()
        end = time.monotonic() + DEATH_S
        while self.ours() and time.monotonic() < end:
            processes.bury(set())
            time.sleep(0.2)
        for one in self.ours():
            self.problems.append(f"{one.title} ({one.pid}, {one.state}) is still there")

    def ours(self):
        """Replicas and decoders, which must not outlive the cluster or the drivers."""
        found = processes.below(os.getpid())
        return [one for one in found if one.lives and (one.is_replica or one.is_decoder)]

    def report(self):
        return {
            "seed": self.config["seed"],
            "records_in_the_storm": self.records_in_the_storm,
            "seconds": round(time.monotonic() - self.start, 1),
            "log": self.events,
            "ends": self.ends,
            "struck": self.struck,
            "problems": self.problems,
        }


def main():
    processes.adopt_orphans()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        storm = Storm(json.loads(Path(sys.argv[1]).read_text()))
        storm.run()
        sys.stdout.write(json.dumps(storm.report()))
    finally:
        processes.kill_below(os.getpid())


if __name__ == "__main__":
    main()
