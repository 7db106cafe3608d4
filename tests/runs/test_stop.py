"""Stop it anywhere, run it again: nothing is lost and nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.local import run_local
from jobs.progress import Silence
from jobs.spec import Cut

ATROUS = Path(sys.executable).with_name("atrous")


class Assassin(Silence):
    """Kills the actor that wrote the first record, once the second is there."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.victim = 0

    def update(self, tally) -> None:
        if tally.shards == 2:
            first = json.loads(records(self.run)[0].read_text())
            self.victim = int(first["worker"].rsplit(":", 1)[1])
            os.kill(self.victim, signal.SIGKILL)


@pytest.mark.ray
def test_killed_actor_is_replaced(tmp_path, run_job, ray_engine, outputs, raster, network):
    run_job(run_local, "map", raster, tmp_path / "quiet", network)
    assassin = Assassin(tmp_path / "run")
    summary = run_job(
        ray_engine(2), "map", raster, tmp_path / "run", network, progress=assassin
    )
    workers = {json.loads(path.read_text())["worker"] for path in records(tmp_path / "run")}
    assert assassin.victim
    assert len(workers) >= 2
    assert summary["finished"]
    assert outputs(tmp_path / "run") == outputs(tmp_path / "quiet")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_stopped_driver_resumes(tmp_path, run_job, outputs, images, network, number):
    cut = Cut(shard_items=1)
    run_job(run_local, "label", images, tmp_path / "quiet", network, cut=cut)
    run = tmp_path / "run"
    code = start_and_stop(images, run, network, number)
    assert code == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[number]
    before = {path: path.stat().st_mtime_ns for path in records(run)}
    assert 2 <= len(before) < 9
    run_job(run_local, "label", images, run, network, cut=cut)
    after = {path: path.stat().st_mtime_ns for path in records(run)}
    assert len(after) == 9
    assert after.items() >= before.items()
    assert outputs(run) == outputs(tmp_path / "quiet")


def test_finished_run_starts_nothing(tmp_path, run_job, images, linear):
    run_job(run_local, "label", images, tmp_path / "run", linear)

    def engine(_spec, _take):
        raise AssertionError("there is nothing to do")

    summary = run_job(engine, "label", images, tmp_path / "run", linear)
    assert summary["finished"]


def test_raster_left_unassembled_is_assembled(tmp_path, run_job, outputs, raster, linear):
    """The driver died between the last block and the COG, or half way through it."""
    run_job(run_local, "map", raster, tmp_path / "quiet", linear)
    run = tmp_path / "run"

    class Stop(Silence):
        def update(self, tally) -> None:
            if tally.shards == 6:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(run_local, "map", raster, run, linear, progress=Stop())
    assert len(list((run / "pieces").iterdir())) == 6
    assert not (run / "rasters").exists()
    run_job(run_local, "map", raster, run, linear)
    assert outputs(run) == outputs(tmp_path / "quiet")
    assert list((run / "pieces").iterdir()) == []


def records(run: Path) -> list[Path]:
    return sorted((run / "ledger").rglob("*.json"))


def start_and_stop(images: Path, run: Path, bundle: Path, number: int) -> int:
    """Run the real command, and send a signal once two shards are in the ledger."""
    command = [ATROUS, "label", images, run, "--bundle", bundle]
    process = subprocess.Popen([*command, "--local", "-c", "shard_items=1"])  # noqa: S603
    deadline = time.monotonic() + 90
    while len(records(run)) < 2:
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    return process.wait(60)
