"""How long a call goes on, and how many run at once, by a clock that we set."""

import asyncio

import pytest

from jobs.patience import Effort, Pace, Patience

MIB = 2**20


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def longest(
    patience, clock, tries=lambda patience: patience.connect_s + patience.silence_s
):
    """How long a call lasts when every request is silent and every pause the longest."""
    effort, begin = Effort(patience, clock), clock.now
    for failures in range(1, 1000):
        limit = effort.attempt()
        clock.now = min(clock.now + tries(patience), limit.when())
        effort.leave()
        pause_s = min(
            patience.longest_pause_s, patience.first_pause_s * 2 ** min(failures - 1, 30)
        )
        if not effort.allows(pause_s):
            return clock.now - begin, failures
        clock.now += pause_s
    raise AssertionError("it never ends")


def test_no_call_lasts_a_minute(clock):
    patience = Patience()
    seconds, tries = longest(patience, clock)
    assert seconds < 60
    assert tries >= 3
    # Also when an answer comes at the last moment, or at once.
    assert longest(patience, clock, lambda _: 9.9)[0] < 60
    assert longest(patience, clock, lambda _: 0.0)[0] < 60


def test_pauses_are_random_below_a_limit_that_doubles():
    patience = Patience(first_pause_s=0.5, longest_pause_s=8.0)
    for failures, limit in ((1, 0.5), (2, 1.0), (5, 8.0), (6, 8.0), (10**6, 8.0)):
        pauses = [patience.pause_s(failures) for _ in range(2000)]
        assert 0 <= min(pauses) < 0.05 * limit
        assert 0.95 * limit < max(pauses) <= limit


def test_bytes_that_move_are_no_waiting(clock):
    effort = Effort(Patience(), clock)
    for _ in range(500):
        clock.now += 1.0
        effort.moved(MIB)
    assert effort.waited_s == pytest.approx(0)
    assert effort.allows(1.0)
    clock.now += 50
    assert effort.waited_s == pytest.approx(50)
    assert not effort.allows(1.0)


def test_far_too_few_bytes_are_waiting_all_the_same(clock):
    effort = Effort(Patience(), clock)
    for _ in range(50):
        clock.now += 1.0
        effort.moved(10)
    assert effort.waited_s == pytest.approx(50, abs=0.1)


def test_a_request_may_be_silent_so_long_and_no_longer(clock):
    patience = Patience(budget_s=45, connect_s=4, silence_s=10)
    effort = Effort(patience, clock)
    limit = effort.attempt()
    assert limit.when() == clock.now + 14

    async def receive():
        async with effort.attempt() as limit:
            for _ in range(20):
                clock.now += 9
                effort.moved(100 * MIB)
                assert limit.when() == clock.now + 10
            limit.reschedule(None)
        effort.leave()
        effort.moved(1)

    asyncio.run(receive())
    clock.now += 50
    assert effort.attempt().when() <= clock.now + 5


def test_a_silent_request_ends():
    async def wait():
        effort = Effort(Patience(connect_s=0.01, silence_s=0.01))
        with pytest.raises(TimeoutError):
            async with effort.attempt():
                await asyncio.sleep(30)
        effort.moved(1)

    asyncio.run(wait())


# How many at once


def test_the_number_halves_once_a_second_and_grows_by_one_a_round(clock):
    pace = Pace(64, clock)
    for _ in range(10):
        pace.slow_down()
    assert pace.limit == 32
    limits = []
    for _ in range(8):
        clock.now += 1
        pace.slow_down()
        limits.append(pace.limit)
    assert limits == [16, 8, 4, 2, 1, 1, 1, 1]
    for expected in (2, 3, 4, 5):
        for _ in range(pace.limit):
            pace.succeeded()
        assert pace.limit == expected
    for _ in range(10_000):
        pace.succeeded()
    assert pace.limit == 64


def test_no_more_than_the_limit_run_at_once_and_all_get_their_turn():
    async def work():
        pace = Pace(3)
        running, most, order = 0, 0, []

        async def one(i):
            nonlocal running, most
            await pace.enter()
            try:
                running += 1
                most = max(most, running)
                order.append(i)
                await asyncio.sleep(0.001)
            finally:
                running -= 1
                pace.leave()

        await asyncio.gather(*(one(i) for i in range(40)))
        assert most == 3
        assert order == list(range(40))

    asyncio.run(work())


def test_who_gives_up_waiting_passes_the_turn_on():
    async def work():
        pace = Pace(1)
        await pace.enter()
        waiting = [asyncio.ensure_future(pace.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        pace.leave()  # wakes the first, who is cancelled before it gets to run
        waiting[0].cancel()
        await asyncio.wait_for(waiting[1], 5)
        waiting[2].cancel()
        pace.leave()
        await asyncio.wait_for(pace.enter(), 5)
        await asyncio.sleep(0)
        assert [one.cancelled() for one in waiting] == [True, False, True]

    asyncio.run(work())


def test_a_number_that_grows_lets_more_in():
    async def work():
        pace = Pace(2)
        pace.slow_down()
        await pace.enter()
        second = asyncio.ensure_future(pace.enter())
        await asyncio.sleep(0)
        assert not second.done()
        pace.succeeded()
        await asyncio.wait_for(second, 5)

    asyncio.run(work())
