"""One process, the same rules."""

from __future__ import annotations

from collections import Counter, deque

import pytest

from cluster import line as line_module
from cluster.local import run_local
from cluster.outcomes import Done, Lost, Postponed, WorkerSpec


class Scripted:
    """Does what its script says of an item, attempt by attempt, and then does it."""

    def __init__(self, scripts) -> None:
        self.scripts = {item: deque(script) for item, script in scripts.items()}
        self.seen = []

    def process(self, item, attempt, announce):
        announce(f"step of {item}")
        self.seen.append((item, attempt))
        answer = self.scripts[item].popleft() if self.scripts[item] else item
        if isinstance(answer, Exception):
            raise answer
        return answer


class OutOfMemoryError(RuntimeError):
    """As torch calls it."""


AWAY = Postponed(reason="away")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(line_module, "_PAUSE_S", 0.01)


def run(scripts, **options):
    worker = Scripted(scripts)
    queue = deque(scripts)
    spec = WorkerSpec(worker=lambda: worker, arguments=())
    take = lambda: queue.popleft() if queue else None  # noqa: E731
    outcomes = list(run_local(spec, take, **options))
    assert Counter(one.item for one in outcomes) == Counter(list(scripts))
    return {one.item: one for one in outcomes}, worker.seen


def test_in_order():
    outcomes, seen = run({"a": [], "b": [], "c": []})
    assert list(outcomes) == ["a", "b", "c"]
    assert [attempt.number for _, attempt in seen] == [1, 1, 1]


def test_postponed_comes_back_while_others_go_on():
    outcomes, seen = run({"a": [AWAY, AWAY], "b": []})
    assert [item for item, _ in seen][:2] == ["a", "b"]
    assert outcomes["a"] == Done(item="a", value="a")
    assert seen[-1][1].number == 3


def test_patience_ends_with_a_last_attempt():
    scripts = {"a": [AWAY] * 500, "b": []}
    outcomes, seen = run(scripts, patience_s=0.2)
    assert isinstance(outcomes["a"], Lost)
    assert [attempt.last for item, attempt in seen if item == "a"].count(True) == 1


def test_patience_ends_without_one_where_nothing_is_done():
    outcomes, seen = run({"a": [AWAY] * 500}, patience_s=0.2)
    assert outcomes["a"].reason == "away; waited for 0.2 s"
    assert not any(attempt.last for _, attempt in seen)


def test_exception_is_tried_once_more_and_then_shown():
    outcomes, _ = run({"a": [ValueError("odd")], "b": []})
    assert isinstance(outcomes["a"], Done)
    with pytest.raises(ValueError, match="odd again"):
        run({"a": [ValueError("odd"), ValueError("odd again")]})


@pytest.mark.parametrize("error", [MemoryError(), OutOfMemoryError("CUDA\nmore")])
def test_want_of_memory_is_told_to_the_next_attempt(error):
    outcomes, seen = run({"a": [error, error]})
    assert outcomes["a"] == Done(item="a", value="a")
    assert [(a.out_of_memory, a.alone) for _, a in seen] == [
        (0, False),
        (1, True),
        (2, True),
    ]


def test_want_of_memory_for_ever_quarantines_the_step():
    outcomes, seen = run({"a": [MemoryError("no room")] * 4})
    assert isinstance(outcomes["a"], Done)
    assert seen[-1][1].quarantined["step of a"].reason == "out of memory: no room"
