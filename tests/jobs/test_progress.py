import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jobs import progress
from jobs.ledger import Record
from jobs.plan import Totals
from jobs.progress import ProgressLine, Silence, format_seconds
from jobs.tally import Tally


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (61, "1 min 01 s"),
        (3599, "59 min 59 s"),
        (3599.7, "1 h 00 min"),
        (3600, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_spans_of_time(seconds, text):
    assert format_seconds(seconds) == text


class Screen(io.StringIO):
    def __init__(self, *, live):
        super().__init__()
        self.live = live

    def isatty(self):
        return self.live


@pytest.fixture
def clock(monkeypatch):
    """Time that passes only when told."""
    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now.s)
    return now


@pytest.fixture
def planned(make_spec):
    def make(shards=4, *, resumed=False):
        totals = Totals(items=9, shards=shards, size=2_500_000, pixels=0, digest="d")
        return SimpleNamespace(spec=make_spec(), totals=totals, resumed=resumed)

    return make


@pytest.mark.parametrize(("decoded", "lines"), [(0, 1), (199, 1), (200, 2)])
def test_reading_too_often_is_said(planned, decoded, lines):
    screen, made = Screen(live=False), planned()
    made.totals = replace(made.totals, decoded=decoded, decoded_of=100 if decoded else 0)
    ProgressLine(screen).start(made, Tally())
    said = screen.getvalue().splitlines()
    assert len(said) == lines
    assert lines == 1 or "each pixel is decoded 2.0 times on average" in said[1]


def step(tally, pixels=3_000_000):
    record = Record(
        shard=tally.shards, fingerprint="f", items=1, items_done=1, pixels_done=pixels
    )
    tally.add(record)


def test_a_log_has_a_line_every_half_minute_and_the_last(clock, planned):
    screen, tally = Screen(live=False), Tally()
    line = ProgressLine(screen)
    line.start(planned(), tally)
    for seconds in (10, 25, 5, 20):
        clock.s += seconds
        step(tally)
        line.update(tally)
    line.stop()
    assert screen.getvalue().splitlines() == [
        "label: planned 4 shards, 9 items, 2.5 MB",
        "2/4 shards  0.17 MP/s  35 s left",
        "4/4 shards  0.20 MP/s  0 s left",
    ]


def test_a_terminal_is_redrawn_in_place(clock, planned):
    screen, tally = Screen(live=True), Tally()
    line = ProgressLine(screen)
    line.start(planned(), tally)
    for _ in range(4):
        clock.s += 0.15
        step(tally)
        line.update(tally)
    line.stop()
    _, *drawn = screen.getvalue().split("\r\x1b[K")
    assert [text.split(" ")[0] for text in drawn] == ["2/4", "4/4"]
    assert screen.getvalue().count("\n") == 2
    assert screen.getvalue().endswith("\n")


def test_a_resumed_run_counts_its_own_work_alone(clock, planned):
    screen, tally = Screen(live=False), Tally()
    step(tally)
    step(tally)
    line = ProgressLine(screen)
    line.start(planned(resumed=True), tally)
    clock.s += 30
    step(tally)
    line.update(tally)
    assert screen.getvalue().splitlines() == [
        "label: resuming at 2 of 4 shards, 9 items, 2.5 MB",
        "3/4 shards  0.10 MP/s  30 s left",
    ]


def test_dead_letters_are_shown(clock, planned, make_items):
    from jobs.ledger import dead_letter

    (item,) = make_items(1)
    screen, tally = Screen(live=False), Tally()
    line = ProgressLine(screen)
    line.start(planned(shards=1), tally)
    clock.s += 1
    letters = (dead_letter(item, "read", "c", "m"),)
    tally.add(Record(shard=0, fingerprint="f", items=1, items_done=0, dead_letters=letters))
    line.update(tally)
    assert (
        screen.getvalue().splitlines()[-1]
        == "1/1 shards  0.00 MP/s  0 s left  1 dead letters"
    )


def test_stderr_is_where_it_goes(capsys, planned):
    line = ProgressLine()
    line.start(planned(), Tally())
    line.stop()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("label: planned")


def test_silence(capsys, planned):
    silence = Silence()
    silence.start(planned(), Tally())
    silence.update(Tally())
    silence.stop()
    assert capsys.readouterr() == ("", "")
