"""The plan of a run: every item and the shard it belongs to, written once.

One row per item of a shard, in shard order, so that a shard is a range of rows
and the file can be written and read as a stream. Of a shard with several items, which
is a mosaic's, the first row alone says which block it is.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from deeplab.tiles import Window
from jobs.errors import RunError
from jobs.shards import MOSAIC, Block, Item, Part, Refusal, Shard, Sidecar
from jobs.windows import amplification

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SCHEMA: Final = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("etag", pa.string(), nullable=False),
        # Of an image in a tar or a Parquet file: which, and where in it.
        pa.field("part_of", pa.string()),
        pa.field("part_at", pa.int64()),
        pa.field("part_group", pa.int32()),
        pa.field("part_column", pa.string()),
        pa.field(
            "sidecars",
            pa.list_(
                pa.struct(
                    [
                        pa.field("suffix", pa.string(), nullable=False),
                        pa.field("at", pa.int64(), nullable=False),
                        pa.field("size", pa.int64(), nullable=False),
                    ]
                )
            ),
        ),
        pa.field("raster_height", pa.int32()),
        pa.field("raster_width", pa.int32()),
        pa.field("raster_grid", pa.string()),
        pa.field("block", pa.int32()),
        pa.field("row", pa.int32()),
        pa.field("col", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("decoded", pa.int64()),
        pa.field("refusal_code", pa.string()),
        pa.field("refusal_message", pa.string()),
    ]
)
_ROWS_A_GROUP: Final = 65536
_ABOUT: Final = b"atrous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a plan adds up to."""

    items: int
    shards: int
    size: int
    """Bytes of all items."""

    pixels: int
    """Pixels of all blocks; 0 for images, whose size is known once decoded."""

    digest: str
    """16 hex digits over every item, whatever the shards."""

    decoded: int = 0
    """Pixels that files decode for the blocks of which that is known, and"""

    decoded_of: int = 0
    """pixels of these blocks."""

    @property
    def read_amplification(self) -> float | None:
        """How often a pixel is decoded on average; None where that is not known."""
        return amplification(self.decoded, self.decoded_of)


def write_plan(shards: Iterable[Shard], path: Path, *, about: dict[str, Any]) -> Totals:
    """Write shards as they come; memory is bounded by one row group.

    Args:
        shards: In order of index.
        path: Local file to write.
        about: What the plan was made for, kept in the file, so that one left
            behind by a driver that died is known for what it is.
    """
    tally = _Tally()
    schema = SCHEMA.with_metadata({_ABOUT: json.dumps(about).encode()})
    rows = (row for shard in shards for row in tally.rows(shard))
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(itertools.islice(rows, _ROWS_A_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
    return tally.totals()


def measure_plan(path: Path) -> Totals:
    """Add up a plan that was written before."""
    tally = _Tally()
    for shard in read_plan(path):
        tally.add(shard)
    return tally.totals()


def read_about(path: Path) -> dict[str, Any]:
    """What a plan was made for.

    Raises:
        RunError: The file is no plan.
    """
    try:
        about: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_ABOUT])
    except (pa.ArrowInvalid, TypeError, KeyError, ValueError) as error:
        raise RunError(
            f"{path.name} is not a plan ({error}); choose a new run folder"
        ) from error
    return about


def read_plan(path: Path) -> Iterator[Shard]:
    """Shards in order, one row group in memory at a time."""
    with pq.ParquetFile(path) as file:
        batches = file.iter_batches(batch_size=_ROWS_A_GROUP)
        rows = (row for batch in batches for row in batch.to_pylist())
        for index, group in itertools.groupby(rows, key=lambda row: row["shard"]):
            yield _to_shard(index, list(group))


class _Tally:
    """Running totals of a stream of shards."""

    def __init__(self) -> None:
        self._items = self._shards = self._size = self._pixels = 0
        self._decoded = self._decoded_of = 0
        self._hash = hashlib.sha256()
        self._last = ""
        self._scenes: dict[str, Item] = {}
        """Of a mosaic: each stands in many shards, which do not follow each other."""

    def rows(self, shard: Shard) -> Iterator[dict[str, Any]]:
        self.add(shard)
        parts = shard.parts
        if shard.is_mosaic:
            # Only the first row says which block it is.
            parts = (parts[0], *((scene, None) for scene in shard.items[1:]))
        return (_to_row(shard, item, block) for item, block in parts)

    def add(self, shard: Shard) -> None:
        self._shards += 1
        self._pixels += shard.pixels
        decoded, of = shard.decoded
        self._decoded += decoded
        self._decoded_of += of
        if shard.is_mosaic:
            self._scenes |= {item.uri: item for item in shard.scenes}
        for item in shard.items[:1] if shard.is_mosaic else shard.items:
            # The blocks of a raster follow each other and are one item.
            if item.uri != self._last:
                self._count(item)
                self._last = item.uri

    def _count(self, item: Item) -> None:
        self._items += item.uri != MOSAIC
        self._size += item.size
        column = "" if item.part is None else item.part.column
        # A name of a column holds any letters, but only behind all the others.
        more = f"\0{column}" if column else ""
        self._hash.update(f"{item.uri}\0{item.size}\0{item.etag}{more}\n".encode())

    def totals(self) -> Totals:
        for uri in sorted(self._scenes):
            self._count(self._scenes.pop(uri))
        return Totals(
            items=self._items,
            shards=self._shards,
            size=self._size,
            pixels=self._pixels,
            digest=self._hash.hexdigest()[:16],
            decoded=self._decoded,
            decoded_of=self._decoded_of,
        )


def _to_row(shard: Shard, item: Item, block: Block | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "shard": shard.index,
        "uri": item.uri,
        "key": item.key,
        "size": item.size,
        "etag": item.etag,
    }
    if block is not None:
        core = block.core
        row |= {"raster_height": block.height, "raster_width": block.width}
        row |= {"block": block.number, "row": core.row, "col": core.col}
        row |= {"height": core.height, "width": core.width}
        row |= {"raster_grid": block.grid or None, "decoded": block.decoded or None}
    if item.part is not None:
        row |= _to_columns(item.part)
    refusal = shard.refusal_of(item)
    if refusal is not None:
        row |= {"refusal_code": refusal.code}
        row |= {"refusal_message": refusal.message}
    return row


def _to_columns(part: Part) -> dict[str, Any]:
    columns: dict[str, Any] = {"part_of": part.of, "part_at": part.at}
    columns |= {"part_group": part.group, "part_column": part.column or None}
    if part.sidecars:
        columns["sidecars"] = [asdict(one) for one in part.sidecars]
    return columns


def _to_shard(index: int, rows: list[dict[str, Any]]) -> Shard:
    blocks = tuple(_to_block(row) for row in rows if row["block"] is not None)
    block = blocks[0] if len(blocks) == 1 else None
    return Shard(
        index=index,
        items=tuple(map(_to_item, rows)),
        block=block,
        blocks=() if block is not None else blocks,
        # Each part of an object has its own.
        refusal=None if rows[0].get("part_of") is not None else _to_refusal(rows[0]),
    )


def _to_item(row: dict[str, Any]) -> Item:
    part = None
    if row.get("part_of") is not None:
        sidecars = row["sidecars"] or ()
        part = Part(
            of=row["part_of"],
            at=row["part_at"],
            group=row["part_group"],
            column=row["part_column"] or "",
            sidecars=tuple(Sidecar(**one) for one in sidecars),
            refusal=_to_refusal(row),
        )
    return Item(
        uri=row["uri"], key=row["key"], size=row["size"], etag=row["etag"], part=part
    )


def _to_refusal(row: dict[str, Any]) -> Refusal | None:
    if row["refusal_code"] is None:
        return None
    return Refusal(code=row["refusal_code"], message=row["refusal_message"])


def _to_block(row: dict[str, Any]) -> Block:
    core = Window(**{name: row[name] for name in ("row", "col", "height", "width")})
    return Block(
        number=row["block"],
        core=core,
        height=row["raster_height"],
        width=row["raster_width"],
        grid=row["raster_grid"] or "",
        decoded=row["decoded"] or 0,
    )
