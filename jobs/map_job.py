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
from jobs.assembly import Assembly, Rasters
from jobs.catalog import collection_id, write_catalog
from jobs.errors import ItemError, StoreError
from jobs.folder import fingerprints_before, list_folders, read_shards
from jobs.inputs.area import find_needed, keep_touching, place_area
from jobs.inputs.decoding import read_info, read_window
from jobs.inputs.raster_plan import (
    find_grid,
    refuse_side_mask,
    take_dates,
    tell_nowhere,
)
from jobs.inputs.sources import find_dates, find_items, raster_suffixes, refresh
from jobs.job import Image, Job
from jobs.ledger import DeadLetter, Ledger, Output, Record
from jobs.outputs.classes import class_table
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.files import replace_file, scratch_file, store_file
from jobs.outputs.layers import fill_layers, list_layers
from jobs.outputs.levels import Codec
from jobs.outputs.pieces import decode_piece, encode_piece
from jobs.outputs.stac import describe_raster
from jobs.outputs.standing import deliver
from jobs.prefetch import map_ahead
from jobs.shards import Item, Refusal, Shard, group_wholes
from jobs.storage import changed, join, open_store
from jobs.wholes import Made, add_up
from jobs.windows import check_block, count_blocks, count_decoded, cut_blocks, slice_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from deeplab.pictures import Segmentation
    from deeplab.tiles import Window
    from jobs.inputs.rasters import RasterInfo
    from jobs.job import Gather, Result
    from jobs.outputs.files import Stored
    from jobs.outputs.levels import Layer
    from jobs.shards import Block
    from jobs.spec import Spec

_HEADER_READERS: Final = 8
_PIECES: Final = "pieces"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob(Job):
    """Rasters in, COGs out: large ones by pieces, put together when all are there."""

    spec: Spec
    fingerprint: str = ""
    folder: str = ""
    readers: ClassVar[int] = 4

    def plan(self) -> Iterator[Shard]:
        """Cut the rasters of the source into blocks; small ones share a shard.

        Raises:
            InputError: There is no raster, or the block size is wrong.
        """
        spec = self.spec
        check_block(spec.cut.block)
        store = open_store(spec.access)
        suffixes = raster_suffixes(spec.reading)
        listed = find_items(store, spec.source, suffixes, limit=spec.limit, pick=spec.pick)
        items = list(listed)
        headers = map_ahead(self._inspect, items, threads=_HEADER_READERS)
        rasters: Iterator[tuple[Item, RasterInfo | Refusal]]
        if spec.area:
            rasters = keep_touching(spec.area, zip(items, headers, strict=True))
        else:
            rasters = zip(items, tell_nowhere(headers), strict=True)
        rasters = take_dates(rasters, find_dates(store, spec.source, spec.pick))
        parts = itertools.starmap(self._cut, rasters)
        yield from self._pack(itertools.chain.from_iterable(parts))

    def replan(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Look at the rasters again; one that has changed is done as a whole or not."""
        rasters: dict[str, list[Shard]] = {}
        for shard in itertools.chain.from_iterable(one.split() for one in shards):
            rasters.setdefault(shard.items[0].uri, []).append(shard)
        yield from self._pack(
            part for blocks in rasters.values() for part in self._recut(blocks)
        )

    def _pack(self, parts: Iterable[Shard]) -> Iterator[Shard]:
        cut = self.spec.cut
        return group_wholes(
            parts,
            max_items=self.spec.shard_items,
            max_bytes=cut.shard_bytes,
            max_pixels=cut.block**2,
        )

    def _cut(self, item: Item, header: RasterInfo | Refusal) -> Iterator[Shard]:
        if isinstance(header, Refusal):
            yield Shard(index=0, items=(item,), refusal=header)
            return
        size, side = (header.height, header.width), self.spec.cut.block
        tiles = TileGrid(height=size[0], width=size[1], tiling=self.spec.tiling)
        for part in cut_blocks(*size, side, grid=header.grid):
            decoded = count_decoded(tiles.reach(part.core), header.stored, size)
            yield Shard(index=0, items=(item,), block=replace(part, decoded=decoded))

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
        block = _block_of(shard, item)
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
        if not valid[slice_of(reach, block.core)].any():
            valid = np.zeros_like(valid)
        return Image(item=item, pixels=pixels, valid=valid, region=region, wanted=inside)

    def bury(self, shard: Shard, item: Item, letter: DeadLetter) -> DeadLetter:
        """Say which pixels are missing."""
        block = shard.block_of(item)
        if block is None:
            return letter
        core = block.core
        return replace(
            letter, row=core.row, col=core.col, height=core.height, width=core.width
        )

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Create the block's piece, unless it holds nodata alone; COGs of whole rasters."""
        if shard.is_whole:
            make = functools.partial(self._make, shard)
            return add_up(shard, self.fingerprint, map(make, results))
        (result,) = results
        if isinstance(result, DeadLetter):
            return add_up(shard, self.fingerprint, [result])
        made = self.make_piece(shard, result.segmentation)
        return add_up(shard, self.fingerprint, [made])

    def make_piece(self, shard: Shard, found: Segmentation) -> Made:
        """Create a block's piece, unless it holds nodata alone."""
        known = self._count(found.mask)
        if not known:
            return Made()
        store, run = open_store(self.spec.access), self.spec.run
        with scratch_file(store, run) as path:
            path.write_bytes(self._encode(_block_of(shard, shard.items[0]), found))
            stored = store_file(store, run, self._piece_name(shard), path)
        if stored.other is not None:
            known = self._count(decode_piece(stored.other))
        return Made(outputs=(stored.output,), done=known)

    def _make(self, shard: Shard, result: Result | DeadLetter) -> Made | DeadLetter:
        """Write the COGs of a raster that is one block."""
        if isinstance(result, DeadLetter):
            return result
        block, found = _block_of(shard, result.item), result.segmentation
        known = self._count(found.mask)
        pieces = [(block.core, self._encode(block, found))] if known else []
        task = Assembly(
            item=result.item, height=block.height, width=block.width, grid=block.grid
        )
        stored = self._assemble(task, pieces)
        mask = next(one for one in stored if one.output.name == task.name)
        if mask.other is not None:
            known = self._count(decode_piece(mask.other))
        return Made(outputs=tuple(one.output for one in stored), done=known)

    def _encode(self, block: Block, found: Segmentation) -> bytes:
        layers = fill_layers(self._layers, found)
        return encode_piece(block, layers, side=self.spec.cut.block, codec=self._codec)

    def delivered(self, record: Record) -> tuple[Output, ...]:
        """Whole rasters; pieces go into the others."""
        pieces = f"{_PIECES}/"
        return tuple(one for one in record.outputs if not one.name.startswith(pieces))

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
        return tuple(one.output for one in self._assemble(task, self._pieces(task)))

    def _assemble(
        self, task: Assembly, pieces: Iterable[tuple[Window, bytes]]
    ) -> tuple[Stored, ...]:
        """Write all that a raster is made into."""
        bundle, layers = self.spec.bundle, self._layers
        legend = self.legend(task)
        stored: list[Stored] = []
        with scratch_file(open_store(self.spec.access), self.spec.run) as path:
            with path.with_name("spool").open("w+b") as spool:
                size, side = (task.height, task.width), self.spec.cut.block
                raster = Assembler(size, side, layers, codec=self._codec, spool=spool)
                for core, piece in pieces:
                    raster.add(core, piece)
                for layer in layers:
                    raster.write(path, layer, grid=task.grid, legend=legend)
                    stored.append(self._deliver(task, task.names.cog(layer.name), path))
            item = self.describe(task, tuple(one.output for one in stored))
            for name, data in (
                (task.names.classes, class_table(bundle.classes)),
                (task.names.item, item),
            ):
                path.write_bytes(data)
                stored.append(self._deliver(task, name, path))
        return tuple(stored)

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
            chosen=self.spec.probabilities,
        )

    def publish(self) -> None:
        """Write the STAC Collection."""
        write_catalog(self.spec)

    def leftovers(self) -> frozenset[str]:
        """Pieces that are there, by name."""
        run = self.spec.run
        found = open_store(self.spec.access).find(join(run, _PIECES))
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
        grid = block.grid or find_grid(self._inspect_unchanged, item)
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
        return list_layers(self.spec)

    @property
    def _codec(self) -> Codec:
        return Codec(self.spec.product.compression)

    def _deliver(self, task: Assembly, name: str, path: Path) -> Stored:
        store, run = open_store(self.spec.access), self.spec.run
        old = next((one for one in task.replaces if one.name == name), None)
        if old is None:
            earlier = fingerprints_before(store, run, self.folder)
            return deliver(store, run, name, path, earlier=earlier)
        return replace_file(store, run, old, path)

    def _count(self, mask: np.ndarray) -> int:
        """Pixels that have a class."""
        return int((mask < len(self.spec.bundle.classes)).sum())

    def _piece_name(self, shard: Shard) -> str:
        return f"{_PIECES}/{shard.output_key(self.fingerprint)}.tif"

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


def _block_of(shard: Shard, item: Item) -> Block:
    block = shard.block_of(item)
    if block is None:
        raise ValueError(f"shard {shard.index} of a map has no block of {item.key}")
    return block
