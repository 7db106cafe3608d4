"""Times of competing functions, taken in turns and compared pair by pair.

What else the machine does slows all of a round's functions alike, so the ratio
of two times from one round holds on a loaded machine where the times do not.
"""

import ctypes
import statistics
import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Median and quartiles of repeated measurements."""

    median: float
    low: float
    high: float
    count: int

    def text(self, digits=2):
        """For people: ``1.07 [1.05-1.10]``."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}-{self.high:.{digits}f}]"


@dataclass(slots=True)
class Times:
    """Seconds of one function, one number a round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads of the process: steadier than ``wall`` among neighbours."""


def spread(values):
    """Median and quartiles; of one value, three times that value."""
    values = sorted(values)
    if len(values) < 2:
        low = high = values[0]
    else:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    median = statistics.median(values)
    return Spread(median=median, low=low, high=high, count=len(values))


def take_turns(functions, *, rounds, budget_s, least=3):
    """Call every function once a round, each round starting with another one.

    Stops after ``rounds``, or after ``budget_s`` once ``least`` rounds are
    done. Warm up before: the first round counts like any other.
    """
    times = {name: Times() for name in functions}
    order = list(functions)
    start = time.perf_counter()
    for number in range(rounds):
        if number >= least and time.perf_counter() - start > budget_s:
            break
        shift = number % len(order)
        for name in order[shift:] + order[:shift]:
            wall, cpu = time.perf_counter(), time.process_time()
            functions[name]()
            times[name].wall.append(time.perf_counter() - wall)
            times[name].cpu.append(time.process_time() - cpu)
    return times


def keep_freed_memory():
    """Stop glibc from giving freed memory back; False where that cannot be said.

    By default it depends on the state of its heaps whether a large tensor
    costs page faults: the same loop's time differed by 40 % between threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    top_pad, mmap_threshold, trim_threshold = -2, -3, -1
    return mallopt is not None and all(
        mallopt(name, size) == 1
        for name, size in (
            (mmap_threshold, 2**30),
            (trim_threshold, 2**30),
            (top_pad, 2**26),
        )
    )


def ratio(values, baseline):
    """Spread of ``values / baseline``, round by round."""
    return spread([mine / other for mine, other in zip(values, baseline, strict=True)])
