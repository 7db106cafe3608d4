import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.prefetch import map_ahead


@given(count=st.integers(0, 30), threads=st.integers(1, 5))
def test_results_come_in_order(count, threads):
    assert list(map_ahead(lambda x: -x, range(count), threads=threads)) == [
        -x for x in range(count)
    ]


def test_slow_calls_do_not_change_the_order():
    def slow(x):
        time.sleep(0.02 if x % 3 == 0 else 0)
        return x

    assert list(map_ahead(slow, range(12), threads=4)) == list(range(12))


def test_calls_run_beside_each_other():
    gate = threading.Barrier(3, timeout=10)
    assert len(list(map_ahead(lambda _: gate.wait(), range(3), threads=3))) == 3


def test_no_more_is_begun_than_asked_for():
    begun = []
    results = map_ahead(begun.append, range(100), threads=4)
    assert begun == []
    for taken in range(1, 20):
        next(results)
        assert len(begun) <= taken + 4
    results.close()
    assert len(begun) <= 24


def test_arguments_are_taken_as_they_are_needed():
    taken = []

    def arguments():
        for i in range(100):
            taken.append(i)
            yield i

    results = map_ahead(lambda x: x, arguments(), threads=3)
    next(results)
    assert len(taken) == 4
    results.close()


def test_an_exception_comes_where_its_result_would():
    def fail(x):
        if x == 2:
            raise KeyError(x)
        return x

    results = map_ahead(fail, range(9), threads=3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="2"):
        next(results)
    assert list(results) == []


def test_an_exception_of_the_arguments_is_seen():
    def arguments():
        yield 1
        raise KeyError("source")

    with pytest.raises(KeyError, match="source"):
        list(map_ahead(lambda x: x, arguments(), threads=1))


def test_leaving_early_leaves_no_thread():
    before = threading.active_count()
    results = map_ahead(lambda x: x, range(100), threads=4)
    next(results)
    results.close()
    assert threading.active_count() == before
