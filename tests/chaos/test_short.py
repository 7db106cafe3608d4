"""A short storm over a small run, for every change."""

import pytest


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(420)
def test_a_run_survives_a_short_storm(weather, few_images):
    report = weather(
        "label",
        few_images,
        seed=1,
        slow={"fault": "drip", "pieces": 2, "seconds": 0.5},
        nodes=0,
        replicas=2,
        strokes=["kill_replica", "kill_replica", "slow_down", "kill_driver", "lose"],
        storm_s=180,
        records=(0, 1),
        every_s=(0.3, 0.8),
        limit_s=300,
    )
    assert report["struck"]["kill_replica"] == 2
    assert report["struck"]["kill_driver"] == 1
