"""Rasters whose blocks are all in the ledger, so that they can be put together."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from jobs.windows import count_blocks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jobs.ledger import Ledger, Output, Record
    from jobs.shards import Block, Item, Shard

COLLECTION: Final = "rasters/collection.json"
"""The STAC Collection over all rasters of a run."""

_LONGEST_NAME: Final = 200
_LONGEST_STEM: Final = 120
_DIGITS: Final = 16
_SUFFIX: Final = re.compile(r"\.tiff?$", re.IGNORECASE)
_PLAIN: Final = re.compile(r".\.tiff?\Z", re.DOTALL)
_SPECIAL: Final = re.compile(r"[A-Z]|-[0-9a-f]{16}\.tiff?$|\.tiff\.tif$")
"""Upper case, and names that other keys get."""

_ODD_START: Final = re.compile(r"[.~-]|(con|prn|aux|nul|com\d|lpt\d)\.", re.IGNORECASE)
"""What hides a file, looks like an option or a home, or is a device somewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """A raster to be put together, and what it is put together from."""

    item: Item
    height: int
    width: int
    grid: str
    """Where it lies, as it was planned: its source may be gone."""

    pieces: tuple[tuple[int, Output], ...] = ()
    """Numbers of the blocks that have a piece, and what it is; others are nodata or
    dead letters."""

    dead: bool = False
    """Whether a block is a dead letter, so that the pieces must be kept."""

    replaces: tuple[Output, ...] = ()
    """What stands since an earlier pass."""

    spent: tuple[Output, ...] = ()
    """Pieces of blocks that a later pass has done again."""

    @property
    def needless(self) -> tuple[Output, ...]:
        """Pieces that nobody needs once the assembly is recorded."""
        kept = () if self.dead else tuple(piece for _, piece in self.pieces)
        return (*self.spent, *kept)

    @property
    def name(self) -> str:
        """Location of the COG below the run folder."""
        return self.names.mask

    @property
    def key(self) -> str:
        """Name of the COG."""
        return output_name(self.item.key)

    @property
    def names(self) -> RasterNames:
        """Of all that is made of the raster."""
        return RasterNames(self.key)


@dataclass(frozen=True, slots=True)
class RasterNames:
    """Locations below the run folder of what a raster is made into."""

    key: str
    """``output_name`` of its item."""

    @property
    def mask(self) -> str:
        """The COG of classes."""
        return f"rasters/{self.key}"

    @property
    def confidence(self) -> str:
        """The COG of the mask's probabilities."""
        return f"confidence/{self.key}"

    @property
    def probabilities(self) -> str:
        """The COG of chosen classes' probabilities."""
        return f"probabilities/{self.key}"

    def cog(self, layer: str) -> str:
        """The COG of a layer: ``mask``, ``confidence`` or ``probabilities``."""
        cogs = {
            "mask": self.mask,
            "confidence": self.confidence,
            "probabilities": self.probabilities,
        }
        return cogs[layer]

    @property
    def classes(self) -> str:
        """The names of classes, as GDAL looks for them beside a GeoTIFF."""
        return f"rasters/{self.key}.aux.xml"

    @property
    def item(self) -> str:
        """The STAC Item; never the Collection's name, and no other Item's.

        No key has a percent sign before a letter that needs none.
        """
        stem = self.key.removesuffix(".tif")
        return f"rasters/{'%63ollection' if stem == 'collection' else stem}.json"

    def __iter__(self) -> Iterator[str]:
        """All of them, whether a run makes them or not."""
        yield from (self.mask, self.confidence, self.probabilities)
        yield from (self.classes, self.item)


@dataclass(slots=True)
class _Raster:
    """What is known of one raster's blocks."""

    pieces: dict[int, Output] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    open: int | None = None
    """Blocks that this pass must still see; None while none was seen."""

    grid: str = ""
    """As the newest pass planned it."""

    stale: bool = False
    """Whether a COG stands that this pass has brought nothing new for."""

    spent: list[Output] = field(default_factory=list)
    """Pieces that others have taken the place of."""

    def add(self, block: Block, record: Record) -> bool:
        """Take a block's newest record; whether that makes it another one."""
        number = block.number
        self.grid = block.grid or self.grid
        self.dead.discard(number)
        # A block of a mosaic may have dead letters and a piece, and be done again.
        before = self.pieces.pop(number, None)
        if before is not None and before not in record.outputs:
            self.spent.append(before)
        for output in record.outputs:
            self.pieces[number] = output
        if record.dead_letters:
            self.dead.add(number)
        return not record.dead_letters or before != self.pieces.get(number)


class Rasters:
    """Collects records until a raster's blocks are complete.

    Memory is bounded by the rasters under way, and in a retry by those retried.
    """

    def __init__(self, block: int) -> None:
        """Begin a run's first pass, with blocks of ``block`` px."""
        self._block = block
        self._under_way: dict[str, _Raster] = {}
        self._wanted: Counter[str] | None = None
        self._standing: dict[str, tuple[Output, ...]] = {}

    def retry(
        self,
        wanted: Iterable[Shard],
        earlier: Iterable[tuple[Iterable[Shard], Ledger]],
    ) -> None:
        """Begin a retry instead.

        Args:
            wanted: The retry's shards.
            earlier: Shards and ledgers of the passes before it, in order.
        """
        self._wanted = Counter(
            one.items[0].uri for one in wanted if one.block and not one.is_whole
        )
        for shards, ledger in earlier:
            planned = iter(shards)
            for record in ledger.read():
                shard = next(one for one in planned if one.index == record.shard)
                uri = shard.items[0].uri
                wants = uri in self._wanted and not shard.is_whole
                if shard.block is not None and wants:
                    raster = self._under_way.setdefault(uri, _Raster())
                    raster.add(shard.block, record)
            for task in ledger.read_tasks():
                self._standing[task.key] = task.outputs

    def add(self, shard: Shard, record: Record) -> Iterator[Assembly]:
        """Take a record; the raster's assembly, if it was the last one."""
        block = shard.block
        if block is None or shard.is_whole:
            return
        item = shard.items[0]
        raster = self._under_way.setdefault(item.uri, _Raster())
        is_new = raster.add(block, record)
        if raster.open is None:
            every = count_blocks(block.height, block.width, self._block)
            raster.open = every if self._wanted is None else self._wanted[item.uri]
            raster.stale = output_name(item.key) in self._standing
        raster.open -= 1
        raster.stale &= not is_new
        if not raster.open:
            del self._under_way[item.uri]
        if not (raster.open or raster.stale):
            every = count_blocks(block.height, block.width, self._block)
            yield Assembly(
                item=item,
                height=block.height,
                width=block.width,
                grid=raster.grid,
                pieces=tuple(sorted(raster.pieces.items(), key=lambda one: one[0])),
                dead=any(number < every for number in raster.dead),
                replaces=self._standing.get(output_name(item.key), ()),
                spent=tuple(raster.spent),
            )


def output_name(key: str) -> str:
    """One file name for a key: no separators, and no two keys alike.

    Not even where upper and lower case are the same: a plain key, in lower case and
    ending in .tif or .tiff, is percent-encoded, and any other one told apart by its
    SHA-256. No name begins with what some system takes for something else.
    """
    name = f"{key}.tif" if key.endswith(".tiff") else key
    if not _is_plain(key) or len(_quote(name)) > _LONGEST_NAME:
        stem = _SUFFIX.sub("", key) or "_"
        digest = hashlib.sha256(key.encode()).hexdigest()[:_DIGITS]
        return f"{_quote(stem)[:_LONGEST_STEM]}-{digest}.tif"
    return _quote(name)


def _is_plain(key: str) -> bool:
    """Whether a key may keep its name, and no other key can have it."""
    return bool(_PLAIN.search(key)) and not _SPECIAL.search(key)


def _quote(text: str) -> str:
    name = quote(text, safe=" ()+,=@")
    return f"%{ord(name[0]):02X}{name[1:]}" if _ODD_START.match(name) else name
