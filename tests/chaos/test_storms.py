"""Long storms over whole runs, on clusters of their own; other ones with CHAOS_SEEDS."""

import os
import random

import pytest

SEEDS = [int(seed) for seed in os.environ.get("CHAOS_SEEDS", "3 4 5").split()]
"""With these everything happens at least once."""

DRIVERS = [
    "kill_head",
    "kill_driver",
    "kill_young_driver",
    "terminate_driver",
    "second_driver",
]
REPLICAS = [
    "kill_replica",
    "kill_newborn",
    "kill_decoder",
    "freeze_replica",
    "freeze_node",
    "kill_node",
    "kill_raylet",
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
    "label": {"fault": "drip", "pieces": 3, "seconds": 0.5},
    "map": {"fault": "drip", "pieces": 2, "seconds": 0.1},
}


@pytest.mark.chaos
@pytest.mark.s3
@pytest.mark.timeout(660)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("job", ["label", "map"])
def test_a_run_survives_a_storm(weather, image_source, raster_source, job, seed):
    dice = random.Random(f"{job} {seed}")
    strokes = [
        name
        for kind, count in ((DRIVERS, 2), (REPLICAS, 3), (FAULTS, 3))
        for name in dice.sample(kind, count)
    ]
    dice.shuffle(strokes)
    report = weather(
        job,
        {"label": image_source, "map": raster_source}[job],
        seed=seed,
        slow=SLOW[job],
        nodes=3,
        replicas=2,
        strokes=strokes,
        storm_s=240,
        records=(1, 6),
        every_s=(0.5, 2),
        limit_s=540,
    )
    assert sum(report["struck"].values()) >= 5, report["log"]
    assert report["records_in_the_storm"], report["log"]
