"""The map job over scenes that overlap: all of them become one COG.

Each scene is a raster of its own on the mosaic's grid, with tiles from its own
corner, so it is segmented as if it were mapped alone; masks are merged, not pixels.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from deeplab.tiles import Region, TileGrid
from jobs.errors import ItemError
from jobs.folder import read_shards
from jobs.inputs.area import find_needed, place_area
from jobs.inputs.placing import find_box, read_scene
from jobs.inputs.raster_plan import refuse_side_mask
from jobs.job import Image
from jobs.ledger import DeadLetter, Record
from jobs.map_job import MapJob
from jobs.mosaic import (
    Canvas,
    moved,
    overlap,
    plan_blocks,
    stand_in,
)
from jobs.mosaic_survey import survey, to_window
from jobs.outputs.stac import to_json
from jobs.shards import MOSAIC, Refusal, Shard
from jobs.storage import open_store
from jobs.windows import check_block, cut_blocks, slice_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from numpy.typing import NDArray

    from deeplab.tiles import Window
    from jobs.assembly import Assembly
    from jobs.inputs.raster_scenes import Place
    from jobs.job import Result
    from jobs.ledger import Output
    from jobs.mosaic_survey import Survey
    from jobs.outputs.cog import Legend
    from jobs.shards import Block, Item
    from jobs.storage import Access

_NAMED: Final = 10
"""Scenes that the output itself names; its plan names all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MosaicJob(MapJob):
    """Scenes in, one COG out."""

    readers: ClassVar[int] = 1  # a scene may be as large as the block

    def plan(self) -> Iterator[Shard]:
        """Cut the mosaic into blocks, each with the scenes that touch it.

        Raises:
            InputError: No scene can be part of it, or it would be too large.
        """
        side = self.spec.cut.block
        check_block(side)
        found = self.survey()
        own = stand_in(found.grid, found.scenes)
        blocks = cut_blocks(found.height, found.width, side, grid=found.grid)
        refused = (
            Shard(index=0, items=(item,), refusal=refusal)
            for item, refusal in found.refused
        )
        shards = itertools.chain(plan_blocks(own, blocks, found.scenes), refused)
        yield from (replace(shard, index=i) for i, shard in enumerate(shards))

    def survey(self) -> Survey:
        """Look at all scenes; see ``plan``."""
        return survey(self.spec, self._ask)

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """The dead blocks as they were planned; a scene that changed stays dead."""
        refusal = Refusal(
            code="unsupported",
            message="it was left out when the mosaic was planned, and the other scenes are "
            "mapped; map the mosaic into a new run",
        )
        for index, shard in enumerate(shards):
            late = None if shard.is_mosaic else refusal
            yield replace(shard, index=index, refusal=late)

    def read(self, shard: Shard, item: Item) -> Image:
        """Read what of a scene lies in the block, and the halo that its tiles need."""
        block = _block_of(shard)
        if item.uri == MOSAIC:
            return self._read_nothing(item)
        grid = self._grid(block)
        self._check_unchanged(item)
        box = _find_box(self._place, item, grid)
        part = overlap(block.core, box)
        if part is None:
            raise ItemError("input_changed", "it lies elsewhere than it did")
        place = moved(part, -block.core.row, -block.core.col)
        inside = self._find_wanted(block, part)
        if inside is not None and not inside.any():
            return self._read_nothing(item)
        core = moved(part, -box.row, -box.col)
        tiles = TileGrid(height=box.height, width=box.width, tiling=self.spec.tiling)
        reach = tiles.reach(core)
        with self._explained(item):
            pixels, valid = read_scene(self.spec, item, grid, reach)
        self._check_unchanged(item)
        if inside is not None:
            valid &= find_needed(tiles, core, reach, inside)
        if not valid[slice_of(reach, core)].any():
            valid = np.zeros_like(valid)
        region = Region(height=box.height, width=box.width, core=core, read=reach)
        return Image(
            item=item,
            pixels=pixels,
            valid=valid,
            region=region,
            wanted=inside,
            place=place,
        )

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Merge the scenes, and create the block's piece, unless all is nodata.

        Where the first scene wins, those after the one that settles the last pixel
        are neither read nor segmented.
        """
        if not shard.is_mosaic:
            return MapJob.write(self, shard, results)
        block = _block_of(shard)
        canvas = Canvas(
            block,
            by_confidence=self.spec.product.mosaic == "confidence",
            chosen=len(self.spec.probabilities),
        )
        wanted = self._find_wanted(block, block.core)
        letters = []
        for result in results:
            if isinstance(result, DeadLetter):
                letters.append(result)
            elif result.place is not None:
                canvas.add(result.segmentation, result.place)
                if canvas.is_settled(wanted):
                    break
        made = self.make_piece(shard, canvas.found)
        # Without any of its scenes a block is lost; else what lacks is nodata.
        is_lost = 0 < len(letters) == len(shard.scenes)
        rest = block.core.size - made.done
        return Record(
            shard=shard.index,
            fingerprint=self.fingerprint,
            items=len(shard.items),
            items_done=len(shard.items) - len(letters),
            dead_letters=tuple(letters),
            pixels_done=made.done,
            pixels_nodata=0 if is_lost else rest,
            pixels_dead=rest if is_lost else 0,
            outputs=made.outputs,
        )

    def legend(self, task: Assembly) -> Legend:
        """Which scenes it is made of: how many, and the first ones."""
        about = self._describe_scenes()
        more = {
            "ATROUS_MOSAIC": about["atrous:mosaic"],
            "ATROUS_SCENES": str(about["atrous:scenes"]),
            "ATROUS_FIRST_SCENES": "\n".join(about["atrous:first_scenes"]),
        }
        return replace(MapJob.legend(self, task), source=self.spec.source, more=more)

    def describe(self, task: Assembly, outputs: tuple[Output, ...]) -> bytes:
        """The STAC Item, which names the first scenes."""
        source = replace(task.item, uri=self.spec.source)
        item = json.loads(MapJob.describe(self, replace(task, item=source), outputs))
        item["properties"] |= self._describe_scenes()
        return to_json(item)

    def _ask(self, item: Item, question: Callable[[], Any]) -> Any:  # noqa: ANN401
        """An answer, or why there is none."""
        try:
            with self._explained(item):
                refuse_side_mask(open_store(self.spec.access), item.uri)
                return question()
        except ItemError as error:
            return Refusal(code=error.code, message=error.message)

    def _grid(self, block: Block) -> str:
        # Only the first block's plan says where the mosaic lies.
        return block.grid or _read_grid(self.spec.access, self.spec.run, self.fingerprint)

    def _place(self, item: Item, grid: str) -> Place:
        with self._explained(item):
            place = find_box(self.spec, item, grid)
        self._check_unchanged(item)
        return place

    def _find_wanted(self, block: Block, part: Window) -> NDArray[np.bool_] | None:
        """Which pixels of a part of the mosaic lie in the area; None without one."""
        if not self.spec.area:
            return None
        grid = self._grid(block)
        return place_area(self.spec.area, grid, block.height, block.width).cover(part)

    def _read_nothing(self, item: Item) -> Image:
        """An image that costs nothing."""
        pixels = np.zeros((len(self.spec.bundle.bands), 1, 1), dtype=np.uint8)
        return Image(item=item, pixels=pixels, valid=pixels[0] > 0)

    def _describe_scenes(self) -> dict[str, Any]:
        rule = self.spec.product.mosaic
        return {
            "atrous:mosaic": rule,
            **_count_scenes(self.spec.access, self.spec.run, self.fingerprint),
        }


@functools.lru_cache(maxsize=1024)
def _find_box(find: Callable[[Item, str], Place], item: Item, grid: str) -> Window:
    return to_window(find(item, grid))


@functools.lru_cache(maxsize=8)
def _read_grid(access: Access, run: str, _fingerprint: str) -> str:
    """Where the mosaic of a run lies: the first block of its plan says it."""
    with contextlib.closing(_planned(access, run)) as shards:
        return _block_of(next(shards)).grid


@functools.lru_cache(maxsize=8)
def _count_scenes(access: Access, run: str, _fingerprint: str) -> dict[str, Any]:
    """How many scenes were planned, and the first ones by name."""
    uris = {item.uri for shard in _planned(access, run) for item in shard.scenes}
    return {
        "atrous:scenes": len(uris),
        "atrous:first_scenes": sorted(uris)[:_NAMED],
    }


def _planned(access: Access, run: str) -> Generator[Shard]:
    yield from (one for one in read_shards(open_store(access), run) if one.is_mosaic)


def _block_of(shard: Shard) -> Block:
    if shard.block is None:
        raise ValueError(f"shard {shard.index} of a mosaic has no block")
    return shard.block
