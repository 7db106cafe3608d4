"""Measure where tiles and the whole image disagree, for blends, overlaps and tiles.

    python tests/benchmarks/bench_seams.py [--save]

The shipped bundle pools over all that it sees, so that a tile's size and place change
its classes everywhere; at seams the cut-off context comes on top. It looks at one
procedural scene, once as a whole and once in tiles of each kind. A seam is a line
midway between the centres of neighbouring tiles, whatever the blend. Shares are of
pixels; nothing is asserted. It takes four minutes on one idle core.
"""

import argparse
import sys
import time
import warnings

import numpy as np
from measure import keep_freed_memory
from provenance import RESULTS, commit, describe, processor, save, say, table

from deeplab.segmenter import Segmenter
from deeplab.tiles import BLENDS, Region, TileGrid, Tiling
from jobs.bundle_file import demo_bundle_path
from jobs.scenes import make_scene

NEAR = 32
"""Px on either side of a seam that count as near it."""

SHARES = {256: (0, 8, 4), 512: (0, 8, 4, 2), 1024: (0, 8, 4)}
"""By tile: what part of it neighbours share, 0 for nothing. Half of it is four times
the work, so one tile is enough to see what that brings."""

HEADER = (
    "tile, overlap, blend",
    "waste",
    "differ",
    "near seams",
    "elsewhere",
    "correct",
    "network s/Mpx",
    "rest s/Mpx",
)


class Memory:
    """The network, which computes the tiles of one grid once for all blends."""

    def __init__(self, classify):
        """Remember nothing yet."""
        self._classify = classify
        self.forget()

    def forget(self):
        """Other tiles follow."""
        self._logits, self._next, self.seconds = [], 0, 0.0

    def rewind(self):
        """The same tiles follow once more."""
        self._next = 0

    def __call__(self, x):
        """Logits of the next batch, computed where it is new."""
        if self._next == len(self._logits):
            start = time.process_time()
            self._logits.append(self._classify(x))
            self.seconds += time.process_time() - start
        self._next += 1
        return self._logits[self._next - 1].clone()


def main():
    options = _parser().parse_args()
    warnings.filterwarnings("ignore", "atrous rate")  # 256 px are few, which is shown
    kept = keep_freed_memory()
    where = describe(sys.argv, processor())
    say(f"{where['processor']}, {where['cores']} cores, load {where['load_average'][0]}")
    scene = make_scene(options.seed, options.side, options.side)
    with Segmenter.load(
        demo_bundle_path(), device="cpu", threads=options.threads
    ) as segmenter:
        rows = measure(segmenter, scene, options.side)
    content = {
        "benchmark": "seams",
        "provenance": where,
        "threads": options.threads,
        "freed_memory_kept": kept,
        "scene": {"seed": options.seed, "side_px": options.side, "near_px": NEAR},
        "rows": rows,
    }
    content["provenance"]["load_average_after"] = describe([], "")["load_average"]
    report(rows, options)
    if options.save:
        save(RESULTS, f"seams-{commit()}", content)


def measure(segmenter, scene, side):
    """A row for the scene as a whole, then one for each way to cut and blend it."""
    memory = segmenter._classify = Memory(segmenter._classify)
    whole, row = _look(segmenter, memory, scene, Tiling(tile=side, overlap=0))
    rows = [row]
    for tile, parts in SHARES.items():
        for part in parts if tile < side else ():
            memory.forget()
            overlap = tile // part if part else 0
            # Without overlap all blends are the same.
            for blend in BLENDS if overlap else BLENDS[:1]:
                memory.rewind()
                tiling = Tiling(tile=tile, overlap=overlap, blend=blend)
                mask, row = _look(segmenter, memory, scene, tiling)
                rows.append(row | _compare(mask, whole, tiling))
                say(f"  {len(rows)}: {_name(rows[-1])}")
    return rows


def _look(segmenter, memory, scene, tiling):
    """Mask of the scene, and what it cost and is worth."""
    side = len(scene.truth)
    known, start = memory.seconds, time.process_time()
    valid = np.ones((side, side), dtype=np.bool_)
    region = Region.whole(side, side)
    mask = segmenter.segment(scene.pixels, valid, region=region, tiling=tiling).mask
    rest = time.process_time() - start - (memory.seconds - known)
    grid = TileGrid(height=side, width=side, tiling=tiling)
    return mask, {
        "tile": tiling.tile,
        "overlap": tiling.overlap,
        "blend": tiling.blend,
        "tiles": grid.count,
        "waste": grid.count * tiling.tile**2 / side**2,
        "correct": float((mask == scene.truth).mean()),
        "network_s_per_mpx": memory.seconds / (side**2 / 1e6),
        "rest_s_per_mpx": rest / (side**2 / 1e6),
    }


def _compare(mask, whole, tiling):
    """Shares of pixels whose class is another one than that of the whole image."""
    differs = mask != whole
    near = find_near(len(mask), tiling)
    near = near[:, None] | near
    return {
        "differ": float(differs.mean()),
        "differ_near_seams": float(differs[near].mean()),
        "differ_elsewhere": float(differs[~near].mean()) if not near.all() else None,
        "near_seams": float(near.mean()),
    }


def find_near(side, tiling):
    """Rows, or columns, within ``NEAR`` px of a seam: bool (side,)."""
    axis = TileGrid(height=side, width=side, tiling=tiling).rows
    seams = [axis.nearest_to(index)[0] for index in range(1, axis.count)]
    centres = np.arange(side) + 0.5
    return (np.abs(centres - np.array(seams)[:, None]) < NEAR).any(0)


def report(rows, options):
    """Print all rows."""
    title = (
        f"scene {options.seed} of {options.side} px, pixels whose class is not that of "
        f"the image seen at once: all, within {NEAR} px of a seam, elsewhere"
    )
    cells = [
        (
            _name(row),
            f"{row['waste']:.2f}",
            *(
                _share(row.get(f"differ{part}"))
                for part in ("", "_near_seams", "_elsewhere")
            ),
            _share(row["correct"]),
            f"{row['network_s_per_mpx']:.2f}",
            f"{row['rest_s_per_mpx']:.2f}",
        )
        for row in rows
    ]
    table(title, HEADER, cells)
    say("  seconds are of processor time; the first row is the whole image at once")


def _name(row):
    blend = row["blend"] if row["overlap"] else ""
    return f"{row['tile']}, {row['overlap']}, {blend}".rstrip(", ")


def _share(value):
    return "" if value is None else f"{100 * value:.3f} %"


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--side", type=int, default=2048, help="of the scene, in px")
    parser.add_argument("--seed", type=int, default=2024, help="of the scene")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--save", action="store_true", help=f"write JSON into {RESULTS}")
    return parser


if __name__ == "__main__":
    main()
