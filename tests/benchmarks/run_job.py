"""One job from its source to its run folder, and where the time went."""

import time
from dataclasses import dataclass, field

from deeplab.tiles import TileGrid
from jobs.commands import Request, start
from jobs.engine import Place
from jobs.spec import Cut
from jobs.windows import cut_blocks


@dataclass(slots=True)
class Stopwatch:
    """Progress that notes when each shard came in."""

    marks: list[tuple[float, int]] = field(default_factory=list)
    """Time and pixels so far, after each shard."""

    def plan(self, items, skipped):
        """Planning is part of the whole."""

    def start(self, planned, tally):
        """Nothing is done yet."""

    def update(self, tally):
        """A shard is in the ledger."""
        pixels = tally.counts["pixels_done"] + tally.counts["pixels_nodata"]
        self.marks.append((time.perf_counter(), pixels))

    def stop(self):
        """Nothing to tidy up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTimes:
    """How long a job took."""

    start_s: float
    """When it began, on the clock of ``time.perf_counter``."""

    wall_s: float
    """All of it: model loaded, planned, done, put together."""

    stages_s: dict[str, float]
    """Sums over the shards: ``read``, ``segment``, ``write``, ``total``."""

    pixels: int
    marks: tuple[tuple[float, int], ...]

    @property
    def steady_pixels_s(self):
        """Pixels a second after the first shard; None where there are too few."""
        if len(self.marks) < 2:
            return None
        (begin, first), (end, last) = self.marks[0], self.marks[-1]
        return (last - first) / (end - begin)

    @property
    def window(self):
        """From the first shard's end to the last one's, or the whole run."""
        if len(self.marks) < 2:
            return self.start_s, self.start_s + self.wall_s
        return self.marks[0][0], self.marks[-1][0]


def run_job(job, source, run, bundle, *, place, cut=None, **options):
    """Run a job into a new run folder.

    Args:
        job: ``label`` or ``map``.
        source: Folder of images, or a raster.
        run: The run folder, new.
        bundle: The bundle file.
        place: Fields of ``jobs.engine.Place``.
        cut: Fields of ``jobs.spec.Cut``.
        options: Other fields of ``jobs.commands.Request``.
    """
    watch = Stopwatch()
    request = Request(
        job=job,
        source=str(source),
        run=str(run),
        bundle=str(bundle),
        cut=Cut(**(cut or {})),
        place=Place(**place),
        **options,
    )
    begin = time.perf_counter()
    summary = start(request, watch)
    wall = time.perf_counter() - begin
    if summary["dead_letters"]:
        raise RuntimeError(f"{run} has dead letters; the benchmark's input is broken")
    return JobTimes(
        start_s=begin,
        wall_s=wall,
        stages_s=summary["seconds"],
        pixels=watch.marks[-1][1],
        marks=tuple(watch.marks),
    )


def count_tiles(height, width, bundle, block):
    """Tiles of a raster, and the tiles computed in blocks: borders count twice."""
    grid = TileGrid(height=height, width=width, tiling=bundle.tiling)
    computed = 0
    for part in cut_blocks(height, width, block):
        core = part.core
        rows = grid.rows.touching(core.row, core.stop_row)
        computed += len(rows) * len(grid.columns.touching(core.col, core.stop_col))
    return grid.count, computed
