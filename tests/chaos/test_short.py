"""A short storm over a small run, for every change."""

import os

import pytest


@pytest.mark.ray
@pytest.mark.s3
@pytest.mark.timeout(400)
@pytest.mark.usefixtures("ray_session")
def test_a_run_survives_a_short_storm(weather, few_images):
    import ray

    report = weather(
        "label",
        few_images,
        seed=1,
        slow={"fault": "drip", "pieces": 2, "seconds": 0.5},
        replicas=2,
        address=ray.get_runtime_context().gcs_address,
        root=os.getpid(),
        strokes=["kill_replica", "kill_replica", "slow_down", "kill_driver", "lose"],
        storm_s=180,
        every_s=(0.3, 0.8),
        limit_s=300,
    )
    assert report["struck"]["kill_replica"] == 2
    assert report["struck"]["kill_driver"] == 1
