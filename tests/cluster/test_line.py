"""The rules of failure, one by one and then in every mixture, on a clock of our own."""

from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.line import Line
from cluster.outcomes import Death

CRASH, KILLED = Death(kind="crash", reason="crash"), Death(kind="killed", reason="killed")
MEMORY, NODE = Death(kind="memory", reason="memory"), Death(kind="node", reason="node")


def line_of(*items, patience_s=900.0):
    queue = deque(items)
    return Line(lambda: queue.popleft() if queue else None, patience_s=patience_s, now=0.0)


def bury(line, call, death, step="", *, now=1.0, node="n"):
    return line.bury(call, death, step=step, node=node, now=now)


def again(line, now=1.0):
    """The one call that is there, alone or not."""
    suspects = line.suspects(now)
    if suspects:
        line.leave(suspects[0])
        return suspects[0]
    return line.next(now)


def test_first_death_only_makes_suspect():
    line = line_of("a", "b")
    first, second = line.next(1.0), line.next(1.0)
    for call in (first, second):
        call.begin()
        assert bury(line, call, CRASH, "step", node="n1") is None
        assert (call.alone, call.avoid, call.quarantined) == (True, "n1", {})
    assert line.next(1.0) is None, "suspects run alone or not at all"
    assert {call.item for call in line.suspects(1.0)} == {"a", "b"}


@pytest.mark.parametrize(("death", "alone"), [(CRASH, 1), (KILLED, 3), (MEMORY, 3)])
def test_step_is_quarantined_after_deaths_alone(death, alone):
    line = line_of("a")
    call = line.next(1.0)
    assert bury(line, call, death, "step") is None
    for number in range(alone):
        assert call.quarantined == {}, f"after {number}"
        assert again(line) is call
        assert bury(line, call, death, "step") is None
    assert call.begin().quarantined == {"step": death}


@pytest.mark.parametrize("death", [KILLED, MEMORY])
def test_deaths_at_different_steps_condemn_none(death):
    line = line_of("a")
    call = line.next(1.0)
    for number in range(9):
        assert bury(line, call, death, f"step {number}") is None
        again(line)
    assert call.quarantined == {}
    assert call.begin().out_of_memory == (9 if death is MEMORY else 0)


def test_worker_that_takes_a_quarantined_step_loses_its_item():
    line = line_of("a")
    call = line.next(1.0)
    for _ in range(2):
        assert bury(line, call, CRASH, "step") is None
        again(line)
    assert bury(line, call, CRASH, "step").reason == "crash"


@pytest.mark.parametrize(("death", "deaths"), [(CRASH, 3), (KILLED, 3), (MEMORY, 4)])
def test_nameless_deaths_lose_the_item(death, deaths):
    line = line_of("a")
    call = line.next(1.0)
    for _ in range(deaths - 1):
        call.begin()
        assert bury(line, call, death) is None
        again(line)
    call.begin()
    lost = bury(line, call, death)
    assert (lost.item, lost.attempts, lost.reason) == ("a", deaths, death.reason)


def test_dead_nodes_are_nobodys_fault():
    line = line_of("a")
    call = line.next(1.0)
    for number in range(100):
        assert bury(line, call, NODE, "step", now=1.0 + number) is None
        assert again(line) is call
    assert (call.alone, call.quarantined) == (False, {})


def test_nodes_that_always_die_lose_the_item_once_nothing_else_is_done():
    line = line_of("a", "b", patience_s=10)
    call = line.next(1.0)
    assert bury(line, call, NODE, now=100.0) is None, "the first one starts the clock"
    line.done(105.0)
    assert bury(line, again(line), NODE, now=114.0) is None
    lost = bury(line, again(line), NODE, now=115.0)
    assert lost.reason == "node; nothing was done for 10 s"
    assert line.next(116.0) is None, "nor is anything new begun"
    assert line.finished


def test_exception_is_tried_once_more():
    line = line_of("a", "b")
    call = line.next(1.0)
    assert not line.raised(call)
    assert line.next(1.0) is call
    assert line.raised(call)


def test_pauses_grow_and_never_pass_the_end_of_patience():
    line = line_of("a")
    call, now, pauses = line.next(0.0), 0.0, []
    while line.postpone(call, "away", now) is None:
        pauses.append(line.pause(now))
        assert line.next(now) is None or pauses[-1] == 0
        now += pauses[-1]
        assert now <= 900
        assert line.next(now) is call
    assert now == 900
    assert max(pauses[:3]) <= 8
    assert max(pauses) > 20
    assert len(pauses) > 15


def test_whoever_waits_while_others_are_done_is_to_do_without():
    line = line_of("a", "b", patience_s=10)
    call = line.next(0.0)
    assert line.postpone(call, "away", 0.0) is None
    line.done(5.0)
    assert line.next(10.0) is call
    assert not call.begin().last
    assert line.postpone(call, "away", 10.0) is None
    assert line.next(10.0) is call
    assert call.begin().last
    assert line.postpone(call, "still away", 10.0).reason == "still away"


def test_where_nobody_gets_done_nothing_is_said_of_the_item():
    line = line_of("a", "b", patience_s=10)
    line.done(0.0)
    call = line.next(0.0)
    assert line.postpone(call, "away", 0.0) is None
    assert line.next(10.0) is call
    assert "waited for 10 s" in line.postpone(call, "away", 10.0).reason
    assert line.finished, "b is not begun"
    line.done(11.0)
    assert line.next(11.0).item == "b", "unless it goes on after all"


def test_new_items_trickle_while_all_of_them_have_to_wait():
    line = line_of(*range(1000))
    taken = set()
    for second in range(600):
        while (call := line.next(float(second))) is not None:
            taken.add(call.item)
            line.postpone(call, "away", float(second))
    assert 16 < len(taken) < 40
    line.done(600.0)
    assert line.next(600.0) is not None


def test_what_waits_alone_comes_back_alone():
    line = line_of("a")
    call = line.next(0.0)
    bury(line, call, KILLED, "step")
    assert again(line) is call
    line.postpone(call, "away", 1.0)
    assert line.next(800.0) is None
    assert line.suspects(800.0) == [call]


@pytest.mark.parametrize("lost", [False, True])
def test_an_outcome_may_bring_new_items(lost):
    queue = deque("a")
    line = Line(lambda: queue.popleft() if queue else None, patience_s=9, now=0)
    call = line.next(0.0)
    assert line.next(0.0) is None
    assert line.finished
    if lost:
        while bury(line, call, KILLED) is None:
            again(line)
    else:
        line.done(1.0)
    queue.append("b")
    assert not line.finished
    assert line.next(1.0).item == "b"


class Twin:
    """Works a line off, some calls at once, as the scripts of its items say."""

    def __init__(self, scripts, seed):
        self.dice, self.now, self.stopped = random.Random(seed), 0.0, False
        self.queue = deque((number, deque(script)) for number, script in enumerate(scripts))
        self.line = Line(
            lambda: self.queue.popleft() if self.queue else None, patience_s=50, now=0.0
        )
        self.running, self.outcomes = [], Counter()

    def work(self, slots):
        while self.running or not (self.line.finished or self.stopped):
            if not self.stopped:
                free = slots - len(self.running)
                calls = [again(self.line, self.now) for _ in range(free)]
                self.running += [call for call in calls if call is not None]
            if self.running:
                self.now += 1.0
                self.settle(self.running.pop(self.dice.randrange(len(self.running))))
            else:
                self.now += self.line.pause(self.now)
            assert self.now < 1e6

    def settle(self, call):
        number, script = call.item
        call.begin()
        act, ended = script.popleft() if script else "done", None
        if act == "done":
            ended = self.line.done(self.now) or call
        elif act == "raise":
            self.stopped |= self.line.raised(call)
        elif act == "postpone":
            ended = self.line.postpone(call, "away", self.now)
        else:
            death, step = Death(kind=act, reason=act), self.dice.choice(["", "x", "y"])
            ended = bury(self.line, call, death, step, now=self.now)
        if ended is not None:
            self.outcomes[number] += 1


ACTS = st.sampled_from(["crash", "killed", "memory", "node", "postpone", "raise"])
SCRIPTS = st.lists(st.lists(ACTS, max_size=5), min_size=1, max_size=12)


@given(scripts=SCRIPTS, slots=st.integers(1, 3), seed=st.integers(0, 99))
def test_every_item_ends_once(scripts, slots, seed):
    """Whatever befalls them: each item is done or lost, and never twice."""
    twin = Twin(scripts, seed)
    twin.work(slots)
    assert set(twin.outcomes.values()) <= {1}
    assert twin.stopped or not twin.queue
    if not twin.stopped:
        assert set(twin.outcomes) == set(range(len(scripts)))
