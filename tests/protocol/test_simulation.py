"""Random stories of runs in which everything that can fail does, by fixed seeds."""

from __future__ import annotations

from collections import Counter

import pytest
from simulation import invariants as held
from simulation import mutants as broken
from simulation.story import Story
from simulation.world import Violation

STORIES = 10_000
"""Of each job; together they take some ten seconds."""

LABEL, MAP = False, True


@pytest.mark.parametrize("mosaic", [LABEL, MAP], ids=["label", "map"])
def test_nothing_is_lost_or_doubled(mosaic):
    seen = Counter()
    for seed in range(STORIES):
        ending = Story(seed, mosaic=mosaic).tell()
        seen["steps"] += ending.steps
        seen["refused"] += ending.refused
        seen["retries"] += ending.generations - 1
        seen["orphans"] += ending.orphans
    # The stories are eventful, or they would prove nothing.
    assert seen["steps"] > 70 * STORIES
    assert seen["refused"] > STORIES
    assert seen["retries"] > STORIES / 2
    # A zombie may bring back a piece whose raster is there; images leave nothing.
    assert bool(seen["orphans"]) is mosaic


def test_a_seed_tells_one_story():
    first, second = (Story(7, mosaic=MAP, log=True).tell() for _ in range(2))
    assert first.log
    assert first == second
    assert first != Story(8, mosaic=MAP, log=True).tell()


MUTANTS = [
    # rule that is broken, job, invariants one of which must tell
    (broken.OverwritingData, LABEL, {held.UNCHANGED, held.DESCRIBED}),
    (broken.OverwritingData, MAP, {held.UNCHANGED, held.DESCRIBED}),
    (broken.OverwritingRecord, MAP, {held.UNCHANGED, held.DESCRIBED}),
    (broken.LookThenPut, LABEL, {held.UNCHANGED, held.DESCRIBED}),
    (broken.LookThenCommit, MAP, {held.UNCHANGED, held.DESCRIBED}),
    (broken.SingleDriver, LABEL, {held.UNCHANGED, held.DESCRIBED}),
    (broken.AnyOptions, LABEL, {held.UNMIXED}),
    (broken.AnyOptions, MAP, {held.UNMIXED}),
    (broken.AnyGeneration, LABEL, {held.COVERED}),
    (broken.AnyGeneration, MAP, {held.UNMIXED, held.RASTERS}),
    (broken.AnyVersion, LABEL, {held.UNMIXED}),
    (broken.AnyVersion, MAP, {held.UNMIXED}),
    (broken.OwnPlan, LABEL, {held.COVERED, held.UNMIXED, held.PROGRESS}),
    (broken.OwnPlan, MAP, {held.UNMIXED, held.PROGRESS}),
    (broken.Streamed, LABEL, {held.DESCRIBED, held.UNCHANGED}),
    (broken.Streamed, MAP, {held.DESCRIBED, held.UNCHANGED}),
    (broken.Marker, LABEL, {held.UNCHANGED, held.DESCRIBED}),
    (broken.Marker, MAP, {held.UNCHANGED, held.DESCRIBED}),
    (broken.RecordFirst, LABEL, {held.DESCRIBED}),
    (broken.RecordFirst, MAP, {held.DESCRIBED}),
    (broken.OwnAccount, LABEL, {held.DESCRIBED}),
    (broken.OwnAccount, MAP, {held.DESCRIBED}),
    (broken.OwnCounts, LABEL, {held.DESCRIBED}),
    (broken.OwnRecord, MAP, {held.MERGED, held.RASTERS, held.SUCCESS, held.VIEW}),
    (broken.NoEmptyObject, LABEL, {held.ROWS}),
    (broken.NoLookForRecord, MAP, {held.PROGRESS}),
    (broken.EarlyMerge, LABEL, {held.MERGED}),
    (broken.OverwritingMerge, LABEL, {held.MERGED}),
    (broken.EarlyDrop, MAP, {held.RASTERS}),
    (broken.DropBeforeRecord, MAP, {held.PROGRESS}),
    (broken.DropAlways, MAP, {held.RASTERS}),
    (broken.NoSecondLook, MAP, {held.PROGRESS}),
    (broken.SourceForGrid, MAP, {held.PROGRESS}),
    (broken.OverwritingRaster, MAP, {held.UNCHANGED}),
    (broken.AnyRaster, MAP, {held.UNCHANGED, held.NAMED}),
    (broken.ByListing, LABEL, {held.MERGED, held.NAMED}),
    (broken.GivingUp, LABEL, {held.NAMED}),
    (broken.GivingUp, MAP, {held.NAMED}),
    (broken.SuccessFirst, LABEL, {held.SUCCESS}),
    (broken.OwnManifest, LABEL, {held.SUCCESS}),
    (broken.OverwritingView, LABEL, {held.VIEW}),
    (broken.ViewAfterSuccess, LABEL, {held.VIEW}),
    (broken.CleanByRaster, MAP, {held.PROGRESS}),
    (broken.CleanByManifest, MAP, {held.RASTERS}),
]


@pytest.mark.parametrize(
    ("rules", "mosaic", "told_by"),
    MUTANTS,
    ids=[
        f"{rules.__name__}-{'map' if mosaic else 'label'}" for rules, mosaic, _ in MUTANTS
    ],
)
def test_a_broken_rule_is_found_out(rules, mosaic, told_by):
    violation = find_violation(rules, mosaic=mosaic)
    assert violation is not None, f"{rules.__doc__} Nobody minds."
    assert violation.invariant in told_by, str(violation)


@pytest.mark.parametrize("mosaic", [LABEL, MAP], ids=["label", "map"])
def test_unconditional_writes_are_sound_while_nothing_else_is_alive(mosaic):
    """Drivers one after the other, whose attempts and requests die with them."""
    alone = {"mosaic": mosaic, "zombies": False}
    assert find_violation(broken.SingleDriver, stories=STORIES // 5, **alone) is None


def find_violation(rules, *, stories: int = 2 * STORIES, **setting) -> Violation | None:
    for seed in range(stories):
        try:
            Story(seed, rules, **setting).tell()
        except Violation as violation:
            return violation
    return None
