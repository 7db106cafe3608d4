"""One seed, told from the first driver to the last zombie."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, NamedTuple

from simulation.invariants import PROGRESS, Observer
from simulation.protocol import Protocol
from simulation.records import FINISHED, GENERATIONS, REFUSED, Stuck
from simulation.world import Climate, Violation, World

if TYPE_CHECKING:
    from simulation.world import Process

OPTIONS: Final = 1
OTHER_OPTIONS: Final = 2
IMAGES: Final = 5
MOSAICS: Final = 2
BOUND: Final = 600
"""Steps that a driver alone may need; the longest story without faults takes fewer."""

RATES: Final = (0.0, 0.04, 0.1, 0.2)
FLAKINESS: Final = (0.0, 0.0, 0.2, 0.5)


class Ending(NamedTuple):
    steps: int
    orphans: int
    refused: int
    """Drivers that were turned away for their options."""

    generations: int
    log: list[str] | None


class Story:
    """A world, its protocol, and what happens in it."""

    def __init__(
        self,
        seed: int,
        rules: type[Protocol] = Protocol,
        *,
        mosaic: bool,
        zombies: bool = True,
        log: bool = False,
    ) -> None:
        self.random = draw = random.Random(seed)
        climate = Climate(draw.choice(RATES), draw.choice(FLAKINESS), zombies)
        inputs = MOSAICS if mosaic else IMAGES
        self.world = World(draw.getrandbits(32), climate, inputs)
        self.world.log = [] if log else None
        self.protocol = rules(self.world)
        self.protocol.mosaic = mosaic
        self.protocol.nodata = 1 << draw.randrange(8)
        self.world.observer = Observer(
            self.world, mosaic=mosaic, nodata=self.protocol.nodata
        )
        self.drivers: list[Process] = []

    def tell(self) -> Ending:
        """Play it all.

        Raises:
            Violation: An invariant does not hold.
        """
        retries = self.random.randrange(GENERATIONS)
        try:
            for generation in range(1 + retries):
                self._storm(generation)
                self._calm(generation)
            self.world.wake_all()
            self._expect_all_ended()
            orphans = self.world.observer.check_end()
            self._clean()
        except Stuck as stuck:
            raise Violation(PROGRESS, str(stuck)) from stuck
        outcomes = [driver.outcome for driver in self.drivers]
        refused = outcomes.count(REFUSED)
        return Ending(self.world.steps, orphans, refused, 1 + retries, self.world.log)

    def _storm(self, generation: int) -> None:
        """Drivers come, at once or one after the other, and all may fail."""
        draw = self.random.random
        for _ in range(self.random.randrange(1, 6)):
            self._launch(generation, changed=draw() < 0.3)
            alone = not self.world.climate.zombies
            self.world.run(9999 if alone else self.random.randrange(90))
            if alone:
                self._expect_all_ended()
            elif draw() < 0.6:
                self.world.start(self.protocol.clean(), "clean")

    def _launch(self, generation: int, *, changed: bool) -> Process:
        options = OTHER_OPTIONS if changed and self.world.objects else OPTIONS
        cut = self.random.randrange(2, 4)
        # Long after a retry has begun, somebody may give the first command again.
        if generation and self.random.random() < 0.8:
            code, name = self.protocol.retry(options, cut), "retry"
        else:
            code, name = self.protocol.run(options, cut), "run"
        driver = self.world.start(code, f"{name} {len(self.drivers)}")
        self.drivers.append(driver)
        return driver

    def _calm(self, generation: int) -> None:
        """Faults cease, zombies sleep on: one more driver must come to its end."""
        self.world.run(9999, calm=True)
        before = self.world.steps
        command = self.protocol.retry if generation else self.protocol.run
        driver = self.world.start(command(OPTIONS, 2), "last driver")
        self.world.run(BOUND, calm=True)
        done = ("success", 0) in self.world.objects
        if driver.outcome is None or not done or driver.outcome is REFUSED:
            steps = self.world.steps - before
            text = f"{driver.outcome} after {steps} steps"
            raise Violation(PROGRESS, f"a driver alone in generation {generation}: {text}")
        if not generation and driver.outcome is not FINISHED:
            raise Violation(PROGRESS, f"the run ends with {driver.outcome}")

    def _expect_all_ended(self) -> None:
        world = self.world
        if world.ready or world.asleep:
            raise Violation(PROGRESS, f"{len(world.ready)} processes never end")

    def _clean(self) -> None:
        """Whoever wants no orphan calls ``clean``, which takes nothing else."""
        self.world.start(self.protocol.clean(), "clean")
        self.world.run(BOUND, calm=True)
        if self.world.observer.check_end():
            raise Violation(PROGRESS, "an orphan survives cleaning")
