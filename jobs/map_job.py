"""The map job: every raster becomes one finished COG on the same grid."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from deeplab.tiles import Region, TileGrid
from jobs.assembly import Rasters
from jobs.catalog import collection_id, write_catalog
from jobs.errors import ItemError, StoreError
from jobs.folder import list_folders, read_shards
from jobs.inputs.area import find_needed, keep_touching, place_area
from jobs.inputs.decoding import read_info, read_window
from jobs.inputs.raster_plan import refuse_side_mask, tell_nowhere
from jobs.inputs.sources import find_items, raster_suffixes, refresh
from jobs.job import Image, Job
from jobs.ledger import DeadLetter, Ledger, Output, Record
from jobs.outputs.classes import class_table
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.files import replace_file, scratch_file, store_file
from jobs.outputs.levels import CONFIDENCE, MASK, Codec
from jobs.outputs.pieces import decode_piece, encode_piece
from jobs.outputs.stac import describe_raster
from jobs.prefetch import map_ahead
from jobs.shards import Item, Refusal, Shard
from jobs.storage import changed, join, open_store
from jobs.windows import check_block, count_blocks, cut_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from deeplab.tiles import Window
    from jobs.assembly import Assembly
    from jobs.inputs.rasters import RasterInfo
    from jobs.job import Gather, Result
    from jobs.outputs.levels import Layer
    from jobs.shards import Block
    from jobs.spec import Spec

_HEADER_READERS: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob(Job):
    """Rasters in, COGs out: one piece per block, put together when all are there."""

    spec: Spec
    fingerprint: str = ""
    folder: str = ""
    readers: ClassVar[int] = 1

    def plan(self) -> Iterator[Shard]:
        """Cut every raster of the source into blocks.

        Raises:
            InputError: There is no raster, or the block size is wrong.
        """
        block = self.spec.cut.block
        check_block(block)
        store = open_store(self.spec.access)
        spec = self.spec
        suffixes = raster_suffixes(spec.reading)
        items = find_items(store, spec.source, suffixes, limit=spec.limit, pick=spec.pick)
        headers = map_ahead(self._inspect, items, threads=_HEADER_READERS)
        rasters: Iterator[tuple[Item, RasterInfo | Refusal]]
        if spec.area:
            rasters = keep_touching(spec.area, zip(items, headers, strict=True))
        else:
            rasters = zip(items, tell_nowhere(headers), strict=True)
        parts = itertools.starmap(self._cut, rasters)
        yield from _number(itertools.chain.from_iterable(parts))

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Look at the rasters again; one that has changed is done as a whole or not."""
        rasters: dict[str, list[Shard]] = {}
        for shard in shards:
            rasters.setdefault(shard.items[0].uri, []).append(shard)
        yield from _number(
            part for blocks in rasters.values() for part in self._recut(blocks)
        )

    def _cut(self, item: Item, header: RasterInfo | Refusal) -> Iterator[Shard]:
        if isinstance(header, Refusal):
            yield Shard(index=0, items=(item,), refusal=header)
            return
        side, grid = self.spec.cut.block, header.grid
        for part in cut_blocks(header.height, header.width, side, grid=grid):
            yield Shard(index=0, items=(item,), block=part)

    def _recut(self, shards: list[Shard]) -> Iterator[Shard]:
        """The dead blocks of a raster, as its object allows now."""
        first = shards[0]
        item = refresh(open_store(self.spec.access), first.items[0])
        block = first.block
        whole = block is None or len(shards) == count_blocks(
            block.height, block.width, self.spec.cut.block
        )
        if item.etag == first.items[0].etag and block is not None:
            yield from (replace(one, items=(item,), refusal=None) for one in shards)
        elif whole:
            yield from self._cut(item, self._inspect(item))
        else:
            refusal = Refusal(
                code="input_changed",
                message="it changed when a part of it was mapped; map it into a new run",
            )
            yield from (replace(one, refusal=refusal) for one in shards)

    def read(self, shard: Shard, item: Item) -> Image:
        """Read the block and the halo that its tiles need, in one window."""
        block = _block_of(shard)
        bundle, access = self.spec.bundle, self.spec.access
        tiling = self.spec.tiling
        grid = TileGrid(height=block.height, width=block.width, tiling=tiling)
        reach = grid.reach(block.core)
        region = Region(height=block.height, width=block.width, core=block.core, read=reach)
        inside = self._find_inside(item, block)
        if inside is not None and not inside.any():
            nothing = np.broadcast_to(np.bool_(0), (reach.height, reach.width))
            pixels = np.broadcast_to(np.uint8(0), (len(bundle.bands), *nothing.shape))
            return Image(item=item, pixels=pixels, valid=nothing, region=region)
        self._check_unchanged(item)
        with self._explained(item):
            pixels, valid = read_window(
                item.uri,
                access,
                reach,
                bands=len(bundle.bands),
                reading=self.spec.reading,
                limits=self.spec.limits,
            )
        self._check_unchanged(item)
        if inside is not None:
            valid &= find_needed(grid, block.core, reach, inside)
        if not valid[_inside(reach, block.core)].any():
            valid = np.zeros_like(valid)
        return Image(item=item, pixels=pixels, valid=valid, region=region, wanted=inside)

    def bury(self, shard: Shard, item: Item, letter: DeadLetter) -> DeadLetter:  # noqa: ARG002
        """Say which pixels are missing."""
        if shard.block is None:
            return letter
        core = shard.block.core
        return replace(
            letter, row=core.row, col=core.col, height=core.height, width=core.width
        )

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Create the block's piece, unless it holds nodata alone."""
        (result,) = results
        if isinstance(result, DeadLetter):
            return self._record(shard, letter=result)
        found = result.segmentation
        known = self._count(found.mask)
        if not known:
            return self._record(shard)
        store, run = open_store(self.spec.access), self.spec.run
        with scratch_file(store, run) as path:
            pixels = {MASK: found.mask, CONFIDENCE: found.confidence}
            layers = [(layer, pixels[layer]) for layer in self._layers]
            side = self.spec.cut.block
            path.write_bytes(
                encode_piece(_block_of(shard), layers, side=side, codec=self._codec)
            )
            stored = store_file(store, run, self._piece_name(shard), path)
        if stored.other is not None:
            known = self._count(decode_piece(stored.other))
        return self._record(shard, known=known, output=stored.output)

    def delivered(self, record: Record) -> tuple[Output, ...]:  # noqa: ARG002
        """Nothing: pieces go into the rasters."""
        return ()

    def gather(self) -> Gather:
        """Collect blocks; when a raster's are all there, it can be put together."""
        rasters = Rasters(self.spec.cut.block)
        if self.folder != self.spec.run:
            store = open_store(self.spec.access)
            folders = list_folders(store, self.spec.run)
            earlier = folders[: folders.index(self.folder)]
            rasters.retry(
                read_shards(store, self.folder),
                [(read_shards(store, one), Ledger(store, one)) for one in earlier],
            )
        return rasters.add

    def complete(self, task: Assembly) -> tuple[Output, ...]:
        """Put a raster's pieces together into its COGs, unless they exist.

        Raises:
            ItemError: A piece is gone or damaged.
        """
        bundle, layers = self.spec.bundle, self._layers
        legend = self.legend(task)
        names = {MASK: task.names.mask, CONFIDENCE: task.names.confidence}
        outputs = []
        with scratch_file(open_store(self.spec.access), self.spec.run) as path:
            with path.with_name("spool").open("w+b") as spool:
                size, side = (task.height, task.width), self.spec.cut.block
                raster = Assembler(size, side, layers, codec=self._codec, spool=spool)
                for core, piece in self._pieces(task):
                    raster.add(core, piece)
                for layer in layers:
                    raster.write(path, layer, grid=task.grid, legend=legend)
                    outputs.append(self._deliver(task, names[layer], path))
            item = self.describe(task, tuple(outputs))
            for name, data in (
                (task.names.classes, class_table(bundle.classes)),
                (task.names.item, item),
            ):
                path.write_bytes(data)
                outputs.append(self._deliver(task, name, path))
        return tuple(outputs)

    def legend(self, task: Assembly) -> Legend:
        """What a finished raster's pixels mean and where they came from."""
        bundle = self.spec.bundle
        return Legend(bundle=bundle, fingerprint=self.fingerprint, source=task.item.key)

    def describe(self, task: Assembly, outputs: tuple[Output, ...]) -> bytes:
        """The STAC Item of a finished raster."""
        return describe_raster(
            task,
            outputs,
            source=task.item.uri,
            bundle=self.spec.bundle,
            fingerprint=self.fingerprint,
            collection=collection_id(self.spec),
        )

    def publish(self) -> None:
        """Write the STAC Collection."""
        write_catalog(self.spec)

    def leftovers(self) -> frozenset[str]:
        """Pieces that are there, by name."""
        run = self.spec.run
        found = open_store(self.spec.access).find(join(run, "pieces"))
        return frozenset(one.uri.removeprefix(f"{run}/") for one in found)

    def has_leftovers(self, task: Assembly, names: frozenset[str]) -> bool:
        """Whether pieces of a finished raster are there; a dead block keeps them."""
        return any(piece.name in names for piece in task.needless)

    def tidy(self, task: Assembly) -> None:
        """Remove the pieces of a raster that needs them no more."""
        store = open_store(self.spec.access)
        for piece in task.needless:
            store.delete(join(self.spec.run, piece.name))

    def _find_inside(self, item: Item, block: Block) -> np.ndarray | None:
        """Which pixels of a block lie in the area, bool (H, W); None without one."""
        if not self.spec.area:
            return None
        # Only the first block's plan says where the raster lies.
        grid = block.grid or _find_grid(self._inspect_unchanged, item)
        placed = place_area(self.spec.area, grid, block.height, block.width)
        return placed.cover(block.core)

    def _inspect(self, item: Item) -> RasterInfo | Refusal:
        try:
            with self._explained(item):
                refuse_side_mask(open_store(self.spec.access), item.uri)
                return read_info(
                    item.uri,
                    self.spec.access,
                    size=item.size,
                    bands=len(self.spec.bundle.bands),
                    reading=self.spec.reading,
                    limits=self.spec.limits,
                )
        except ItemError as error:
            return Refusal(code=error.code, message=error.message)

    def _inspect_unchanged(self, item: Item) -> RasterInfo | Refusal:
        """Look again at a raster that was planned."""
        header = self._inspect(item)
        self._check_unchanged(item)
        return header

    @contextlib.contextmanager
    def _explained(self, item: Item) -> Iterator[None]:
        """Say so where the object is gone, or another one, or may not be read."""
        try:
            yield
        except (ItemError, StoreError):
            self._check_unchanged(item)
            open_store(self.spec.access).read_head(item.uri, 1)
            raise

    def _check_unchanged(self, item: Item) -> None:
        # GDAL cannot be told which version to read, so look before and after.
        if open_store(self.spec.access).stat(item.uri).etag != item.etag:
            raise changed(item.uri)

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return (MASK, CONFIDENCE) if self.spec.product.confidence else (MASK,)

    @property
    def _codec(self) -> Codec:
        return Codec(self.spec.product.compression)

    def _deliver(self, task: Assembly, name: str, path: Path) -> Output:
        store, run = open_store(self.spec.access), self.spec.run
        old = next((one for one in task.replaces if one.name == name), None)
        if old is None:
            return store_file(store, run, name, path).output
        return replace_file(store, run, old, path)

    def _count(self, mask: np.ndarray) -> int:
        """Pixels that have a class."""
        return int((mask < len(self.spec.bundle.classes)).sum())

    def _record(
        self,
        shard: Shard,
        *,
        letter: DeadLetter | None = None,
        known: int = 0,
        output: Output | None = None,
    ) -> Record:
        dead = () if letter is None else (letter,)
        size = shard.block.core.size if shard.block else 0
        return Record(
            shard=shard.index,
            fingerprint=self.fingerprint,
            items=1,
            items_done=1 - len(dead),
            dead_letters=dead,
            pixels_done=known,
            pixels_nodata=0 if dead else size - known,
            pixels_dead=size if dead else 0,
            outputs=() if output is None else (output,),
        )

    def _piece_name(self, shard: Shard) -> str:
        return f"pieces/{shard.output_key(self.fingerprint)}.tif"

    def _pieces(self, task: Assembly) -> Iterator[tuple[Window, bytes]]:
        store = open_store(self.spec.access)
        cores = cut_blocks(task.height, task.width, self.spec.cut.block)
        known = dict(task.pieces)
        for block in cores:
            if block.number not in known:
                continue
            piece = known[block.number]
            data = store.read(join(self.spec.run, piece.name))
            if hashlib.sha256(data).hexdigest() != piece.sha256:
                raise ItemError("corrupted", f"{piece.name} is not what its record says")
            yield block.core, data


@functools.lru_cache(maxsize=64)
def _find_grid(inspect: Callable[[Item], RasterInfo | Refusal], item: Item) -> str:
    header = inspect(item)
    if isinstance(header, Refusal):
        raise ItemError(header.code, header.message)
    return header.grid


def _number(shards: Iterable[Shard]) -> Iterator[Shard]:
    return (replace(shard, index=index) for index, shard in enumerate(shards))


def _block_of(shard: Shard) -> Block:
    if shard.block is None:
        raise ValueError(f"shard {shard.index} of a map has no block")
    return shard.block


def _inside(outer: Window, inner: Window) -> tuple[slice, slice]:
    row, col = inner.row - outer.row, inner.col - outer.col
    return slice(row, row + inner.height), slice(col, col + inner.width)
