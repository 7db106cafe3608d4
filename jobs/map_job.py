"""The map job: every raster becomes one finished COG on the same grid."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import numpy as np

from deeplab.tiles import Region, TileGrid
from jobs.errors import ItemError
from jobs.inputs.rasters import read_info, read_profile, read_window
from jobs.inputs.sources import RASTER_SUFFIXES, find_items
from jobs.job import Image, Job
from jobs.ledger import DeadLetter, Output, Record, dead_letter
from jobs.outputs.cog import Legend, decode_piece, encode_piece, write_cog
from jobs.outputs.files import scratch_file, store_file
from jobs.prefetch import map_ahead
from jobs.shards import Item, Refusal, Shard
from jobs.storage import changed, join, open_store
from jobs.windows import check_block, count_blocks, cut_blocks

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from deeplab.tiles import Window
    from jobs.inputs.rasters import RasterInfo
    from jobs.job import Result
    from jobs.shards import Block
    from jobs.spec import Spec

_HEADER_READERS: Final = 8
_LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """A raster whose blocks are all in the ledger."""

    item: Item
    height: int
    width: int
    absent: frozenset[int]
    """Numbers of the blocks that have no piece: nodata or dead letters."""

    dead: bool
    """Whether a block is a dead letter, so that the pieces must be kept."""

    @property
    def name(self) -> str:
        """Location of the COG below the run folder."""
        return f"rasters/{output_name(self.item.key)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class MapJob(Job):
    """Rasters in, COGs out: one piece per block, put together when all are there."""

    spec: Spec
    fingerprint: str = ""
    _blocks: dict[str, list[tuple[int, bool, bool]]] = field(
        default_factory=lambda: defaultdict(list), compare=False, repr=False
    )
    """On the driver, for each raster under way: (number, has a piece, is dead)."""

    def plan(self) -> Iterator[Shard]:
        """Cut every raster of the source into blocks.

        Raises:
            InputError: There is no raster, or the block size is wrong.
        """
        block = self.spec.cut.block
        check_block(block)
        store = open_store(self.spec.access)
        items = find_items(store, self.spec.source, RASTER_SUFFIXES, limit=self.spec.limit)
        index = 0
        for item, header in zip(
            items, map_ahead(self._inspect, items, threads=_HEADER_READERS), strict=True
        ):
            if isinstance(header, Refusal):
                yield Shard(index=index, items=(item,), refusal=header)
                index += 1
                continue
            for part in cut_blocks(header.height, header.width, block):
                yield Shard(index=index, items=(item,), block=part)
                index += 1

    def read(self, shard: Shard) -> Iterator[Image | DeadLetter]:
        """Read the block and the halo that its tiles need, in one window."""
        (item,) = shard.items
        if shard.refusal is not None:
            yield dead_letter(item, "plan", shard.refusal.code, shard.refusal.message)
        elif shard.block is not None:
            yield self._read_block(item, shard.block)

    def write(self, shard: Shard, results: Iterable[Result | DeadLetter]) -> Record:
        """Create the block's piece, unless it holds nodata alone."""
        (result,) = results
        block = shard.block
        if isinstance(result, DeadLetter) or block is None:
            return self._record(shard, letter=result)
        mask = result.segmentation.mask
        known = int((mask < len(self.spec.bundle.classes)).sum())
        output = self._store_piece(shard, mask) if known else None
        return self._record(shard, known=known, output=output)

    def finish(self, shard: Shard, record: Record) -> Iterator[Assembly]:
        """A raster's assembly, once the last of its blocks is in the ledger."""
        (item,), block = shard.items, shard.block
        if block is None:
            return
        blocks = self._blocks[item.uri]
        blocks.append((block.number, bool(record.outputs), bool(record.dead_letters)))
        if len(blocks) == count_blocks(block.height, block.width, self.spec.cut.block):
            del self._blocks[item.uri]
            yield Assembly(
                item=item,
                height=block.height,
                width=block.width,
                absent=frozenset(number for number, piece, _ in blocks if not piece),
                dead=any(dead for _, _, dead in blocks),
            )

    def is_complete(self, task: Assembly, names: Container[str]) -> bool:
        """Whether the COG exists and no piece of it is left over."""
        if task.name not in names:
            return False
        pieces = (self._piece_name(shard) for shard in self._shards(task))
        return task.dead or not any(piece in names for piece in pieces)

    def complete(self, task: Assembly) -> None:
        """Put a raster's pieces together into its COG, unless it exists.

        Raises:
            ItemError: The source is gone or changed, so its grid is unknown.
        """
        store = open_store(self.spec.access)
        run, name = self.spec.run, task.name
        if not store.exists(join(run, name)):
            profile = self._profile(task.item)
            legend = Legend(bundle=self.spec.bundle, fingerprint=self.fingerprint)
            with scratch_file(store, run) as path:
                pieces = self._pieces(task)
                write_cog(path, profile=profile, legend=legend, pieces=pieces)
                store_file(store, run, name, path)
        if not task.dead:
            for shard in self._shards(task):
                store.delete(join(run, self._piece_name(shard)))

    def _inspect(self, item: Item) -> RasterInfo | Refusal:
        try:
            info = read_info(item.uri, self.spec.access)
        except ItemError as error:
            return Refusal(code=error.code, message=error.message)
        wanted = len(self.spec.bundle.bands)
        if info.dtype != "uint8" or info.paletted or info.bands < wanted:
            kind = "a palette" if info.paletted else f"{info.bands} bands of {info.dtype}"
            text = f"the raster has {kind}; the bundle needs {wanted} bands of uint8"
            return Refusal(code="unsupported", message=text)
        return info

    def _read_block(self, item: Item, block: Block) -> Image | DeadLetter:
        bundle, access = self.spec.bundle, self.spec.access
        grid = TileGrid(
            height=block.height,
            width=block.width,
            tile=bundle.tile,
            overlap=bundle.overlap,
        )
        reach = grid.reach(block.core)
        try:
            self._check_unchanged(item)
            pixels, valid = read_window(item.uri, access, reach, bands=len(bundle.bands))
            self._check_unchanged(item)
        except ItemError as error:
            letter = dead_letter(item, "read", error.code, error.message)
            core = block.core
            return replace(
                letter, row=core.row, col=core.col, height=core.height, width=core.width
            )
        if not valid[_inside(reach, block.core)].any():
            valid = np.zeros_like(valid)
        region = Region(height=block.height, width=block.width, core=block.core, read=reach)
        return Image(item=item, pixels=pixels, valid=valid, region=region)

    def _check_unchanged(self, item: Item) -> None:
        # GDAL cannot be told which version to read, so look before and after.
        if open_store(self.spec.access).stat(item.uri).etag != item.etag:
            raise changed(item.uri)

    def _profile(self, item: Item) -> dict[str, object]:
        profile = read_profile(item.uri, self.spec.access)
        self._check_unchanged(item)
        return profile

    def _record(
        self,
        shard: Shard,
        *,
        letter: Result | DeadLetter | None = None,
        known: int = 0,
        output: Output | None = None,
    ) -> Record:
        dead = (letter,) if isinstance(letter, DeadLetter) else ()
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

    def _store_piece(self, shard: Shard, mask: np.ndarray) -> Output:
        store, run = open_store(self.spec.access), self.spec.run
        with scratch_file(store, run) as path:
            path.write_bytes(encode_piece(mask))
            return store_file(store, run, self._piece_name(shard), path)

    def _piece_name(self, shard: Shard) -> str:
        return f"pieces/{shard.output_key(self.fingerprint)}.tif"

    def _shards(self, task: Assembly) -> Iterator[Shard]:
        """The shards of a raster that have a piece, as far as their names go."""
        for block in cut_blocks(task.height, task.width, self.spec.cut.block):
            if block.number not in task.absent:
                yield Shard(index=0, items=(task.item,), block=block)

    def _pieces(self, task: Assembly) -> Iterator[tuple[Window, np.ndarray]]:
        store = open_store(self.spec.access)
        for shard in self._shards(task):
            if shard.block is not None:
                data = store.read(join(self.spec.run, self._piece_name(shard)))
                yield shard.block.core, decode_piece(data)


def output_name(key: str) -> str:
    """One file name for a key: no separators, no two keys alike.

    Percent-encoded; a very long key is cut and told apart by its SHA-256.
    """
    name = quote(key, safe=" ()+,=@")
    if len(name) > _LONGEST_NAME:
        name = f"{name[:120]}-{hashlib.sha256(key.encode()).hexdigest()[:32]}"
    return name if name.endswith(".tif") else f"{name}.tif"


def _inside(outer: Window, inner: Window) -> tuple[slice, slice]:
    row, col = inner.row - outer.row, inner.col - outer.col
    return slice(row, row + inner.height), slice(col, col + inner.width)
