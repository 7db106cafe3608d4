"""Long storms over whole runs, on a cluster of their own."""

import random

import pytest

STROKES = [
    "kill_replica",
    "kill_newborn",
    "kill_decoder",
    "freeze_replica",
    "freeze_node",
    "kill_node",
    "kill_raylet",
    "kill_head",
    "kill_driver",
    "kill_young_driver",
    "terminate_driver",
    "second_driver",
]
FAULTS = [
    "slow_down",
    "server_error",
    "reset",
    "lose",
    "half",
    "stall",
    "hang",
    "deaf",
    "drip",
]
SLOW = {
    "label": {"fault": "drip", "pieces": 3, "seconds": 1},
    "map": {"fault": "drip", "pieces": 2, "seconds": 0.4},
}


@pytest.mark.chaos
@pytest.mark.s3
@pytest.mark.timeout(360)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("job", ["label", "map"])
def test_a_run_survives_a_storm(weather, image_source, raster_source, job, seed):
    dice = random.Random(f"{job} {seed}")
    strokes = [*dice.sample(STROKES, 8), *dice.sample(FAULTS, 5)]
    dice.shuffle(strokes)
    report = weather(
        job,
        {"label": image_source, "map": raster_source}[job],
        seed=seed,
        slow=SLOW[job],
        replicas=2,
        strokes=strokes,
        storm_s=75,
        every_s=(1, 4),
        limit_s=240,
    )
    assert sum(report["struck"].values()) >= 8, report["log"]
