"""What a run is: its source, bundle and options, and their fingerprint.

Options that change results are in the fingerprint. Options that only say how
the work is cut or spread, or when to give up, are neutral: they may differ when
a run is resumed.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from deeplab.tiles import BlendKind, Tiling
from deeplab.views import Views
from jobs.class_choice import choose_classes
from jobs.errors import InputError, ItemError
from jobs.mask_choice import Masks
from jobs.policy import Policy
from jobs.sizes import Sizes
from jobs.truth import Truth

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deeplab.bundle import Bundle
    from jobs.storage import Access

FORMAT_VERSION: Final = 2
"""Of the run folder."""

RESULT_VERSION: Final = 3
"""Raised whenever a change of the program changes its masks."""

BATCH: Final = {"cpu": 1, "cuda": 16}
"""Tiles in one forward pass; on a CPU one is fastest."""

_SHARD_ITEMS: Final = 64
_SHARD_IMAGES: Final = {"cpu": _SHARD_ITEMS, "cuda": 512}
"""Tiles of one shape share a batch: of photographs, 64 would leave a third of it empty."""

JobName = Literal["label", "map", "evaluate"]
Device = Literal["cpu", "cuda"]
Precision = Literal["fp32", "bf16"]
Compression = Literal["zstd", "deflate"]
Mosaic = Literal["first", "recent", "confidence"]

MOSAICS: Final[tuple[Mosaic, ...]] = get_args(Mosaic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compute:
    """How a replica computes. All of it changes results, in the last bits at least."""

    device: Device = "cpu"
    precision: Precision = "fp32"
    threads: int = 1
    """Threads of one replica on a CPU."""

    @property
    def batch(self) -> int:
        """Tiles in one forward pass."""
        return BATCH[self.device]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """How rasters and images are cut into tiles and blended. All of it changes results."""

    tile: int | None = None
    """Rows and columns of a tile; None for those of the bundle."""

    overlap: int | None = None
    """Pixels that neighbours share; None for those of the bundle."""

    blend: BlendKind = "hann"

    def resolve(self, bundle: Bundle) -> Tiling:
        """What it comes to with a bundle.

        Raises:
            InputError: A number is out of its range.
        """
        tile = bundle.tile if self.tile is None else self.tile
        overlap = bundle.overlap if self.overlap is None else self.overlap
        try:
            return Tiling(tile=tile, overlap=overlap, blend=self.blend)
        except ValueError as error:
            own = f"the bundle's are tile={bundle.tile} and overlap={bundle.overlap}"
            raise InputError(
                f"{error}; {own}, -c tile=N and -c overlap=N set others"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """How the work is cut into shards. None of it changes results."""

    shard_items: int | None = None
    """Most images, or rasters of one block, in a shard; None for ``Spec.shard_items``."""

    shard_bytes: int = 256 * 2**20
    """Most bytes of input files in a shard."""

    block: int = 4096
    """Side of a raster's blocks, in px."""

    file_bytes: int = 512 * 2**20
    """Most bytes of masks, before they are compressed, in a file of two or more."""

    def __post_init__(self) -> None:
        """Check what is not checked where the work is cut."""
        if self.file_bytes < 1:
            raise InputError(f"file_bytes must be at least 1, got {self.file_bytes}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What is written of each raster."""

    compression: Compression = "zstd"
    confidence: bool = False
    """Whether each mask gets a COG of probabilities beside it."""

    probabilities: tuple[str, ...] | None = None
    """Names or ids of classes that get a COG of theirs, or ``all``."""
    mosaic: Mosaic | None = None
    """Which scene wins in one raster of all of them; None for a raster of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What decoding one image may take; what needs more becomes a dead letter.

    Neutral: they change no mask, only whether there is one. A retry may have others.
    """

    seconds: float = 10.0
    max_pixels: int = 100_000_000
    """Width times height."""

    max_bytes: int = 2**30
    """Of an image's file; those of a raster are never read as a whole."""

    def __post_init__(self) -> None:
        """Check the limits."""
        if not self.seconds > 0:
            raise InputError(f"decode_timeout must be more than 0 s, got {self.seconds:g}")
        if self.max_pixels < 1:
            raise InputError(f"max_pixels must be at least 1, got {self.max_pixels}")
        if self.max_bytes < 1:
            raise InputError(f"max_bytes must be at least 1, got {self.max_bytes}")

    def check_bytes(self, size: int) -> None:
        """Refuse a file of so many bytes, if it is too large.

        Raises:
            ItemError: ``too_large``.
        """
        if size > self.max_bytes:
            text = f"{size} bytes exceed {self.max_bytes}; see -c max_bytes"
            raise ItemError("too_large", text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What to take of each row of a source that is an index."""

    column: str | None = None
    """The column of locations; None for the one with a usual name."""

    asset: str | None = None
    """The asset of a STAC Item; None for the one that holds data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How the pixels of rasters are read.

    All of it changes results but ``allow_vrt``, which only says what may be read.
    """

    bands: tuple[int, ...] | None = None
    """Bands of the file, from 1, in the order of the bundle's; None for the first."""

    value_range: tuple[float, float] | None = None
    """Values, after scale and offset, that the network sees as 0 and 255."""

    crs: str | None = None
    """Where to put rasters before they are read; None for where they lie."""

    resolution: float | None = None
    """Side of a pixel there, in units of that CRS; None for what fits each raster."""

    allow_vrt: tuple[str, ...] = ()
    """Absolute folders or prefixes that VRTs may name sources under; neutral."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise InputError(f"bands count from 1, got {_commas(self.bands)}")
        if self.value_range is not None:
            low, high = self.value_range
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise InputError(
                    f"value_range must be two numbers, the lower one first, got "
                    f"{_commas(self.value_range)}"
                )
        size = self.resolution
        if size is not None and not (math.isfinite(size) and size > 0):
            raise InputError(f"resolution must be more than 0, got {size:g}")

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Reading:
        """Of fields as JSON holds them; others are passed over."""
        given: dict[str, Any] = {
            name: tuple(fields[name]) if isinstance(fields[name], list) else fields[name]
            for name in cls.__slots__
            if fields.get(name) is not None
        }
        return cls(**given)

    @property
    def is_warped(self) -> bool:
        """Whether pixels are computed for another grid than the file's."""
        return self.crs is not None or self.resolution is not None

    def results(self) -> dict[str, Any]:
        """What changes results, as JSON gives it back."""
        return {
            "bands": None if self.bands is None else list(self.bands),
            "value_range": None if self.value_range is None else list(self.value_range),
            "crs": self.crs,
            "resolution": self.resolution,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """All that there is to know about a run before it is planned."""

    job: JobName
    source: str
    """Absolute location: a file, a folder or prefix, a glob, or an index."""

    limit: int | None
    """Take the first so many items only."""

    run: str
    """The run folder."""

    bundle: Bundle
    compute: Compute
    cut: Cut
    access: Access
    tiles: Tiles = field(default_factory=Tiles)
    views: Views = field(default_factory=Views)
    sizes: Sizes = field(default_factory=Sizes)
    policy: Policy = field(default_factory=Policy)
    limits: Limits = field(default_factory=Limits)
    product: Product = field(default_factory=Product)
    pick: Pick = field(default_factory=Pick)
    reading: Reading = field(default_factory=Reading)
    masks: Masks = field(default_factory=Masks)
    truth: Truth = field(default_factory=Truth)
    area: str = ""
    """GeoJSON of the area that a map is limited to; empty for all."""

    skip_done_in: str | None = None
    """A run folder; what it has done is left out of the plan."""

    bundle_location: str = ""
    """Where the bundle lies, or ``demo``, so that a retry can load it again."""

    def __post_init__(self) -> None:
        """Check that the bundle gets the bands that it needs."""
        bands, needed = self.reading.bands, self.bundle.bands
        if bands is not None and len(bands) != len(needed):
            raise InputError(
                f"bands must name {len(needed)} bands for this bundle "
                f"({', '.join(needed)}), got {_commas(bands)}"
            )
        _ = self.probabilities, self.floors

    @property
    def shard_items(self) -> int:
        """Most images, or rasters of one block, in a shard."""
        if self.cut.shard_items is not None:
            return self.cut.shard_items
        return _SHARD_ITEMS if self.has_rasters else _SHARD_IMAGES[self.compute.device]

    @property
    def has_rasters(self) -> bool:
        """Whether items are rasters and not images."""
        return self.job == "map" or self.truth.form == "raster"

    @property
    def tiling(self) -> Tiling:
        """Tile, overlap and blend, as asked for or of the bundle.

        Raises:
            InputError: A number is out of its range.
        """
        return self.tiles.resolve(self.bundle)

    @property
    def probabilities(self) -> tuple[int, ...]:
        """Ids of the classes whose probabilities are written.

        Raises:
            InputError: The bundle has no such class.
        """
        return choose_classes("probabilities", self.product.probabilities, self.bundle)

    @property
    def floors(self) -> tuple[float, ...]:
        """Least confidence of each class; see ``Masks.floors``."""
        return self.masks.floors(self.bundle)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed."""
        return {
            "job": self.job,
            "source": self.source,
            "limit": self.limit,
            "source_column": self.pick.column,
            "asset": self.pick.asset,
            "skip_done_in": self.skip_done_in,
            **self.results(),
        }

    def results(self) -> dict[str, Any]:
        """The options that change results."""
        return {
            "bundle": self.bundle.digest,
            **asdict(self.tiling),
            **read_views(self.views),
            **asdict(self.sizes),
            "batch": self.compute.batch,
            **asdict(self.compute),
            **asdict(self.product),
            "probabilities": list(self.probabilities) or None,
            **self.reading.results(),
            "mask_encoding": self.masks.mask_encoding,
            "min_confidence": list(self.floors) or None,
            "truth": self.truth.results(),
            "area": _digest_of_text(self.area) if self.area else None,
            "torch": version("torch").split("+")[0],
            "result_version": RESULT_VERSION,
        }

    def fingerprint(self, plan_digest: str) -> str:
        """16 hex digits over the planned items and what changes results."""
        return digest_of({"plan": plan_digest, "job": self.job, **self.results()})


def read_views(views: Views) -> dict[str, Any]:
    """How tiles are seen, as JSON gives it back."""
    return {"scales": list(views.scales), "flip": views.flip}


def write_area(geometry: dict[str, Any] | None) -> str:
    """An area as text, always the same for one geometry; empty for none."""
    if geometry is None:
        return ""
    return json.dumps(geometry, sort_keys=True, separators=(",", ":"))


def _commas(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values) or "none"


def _digest_of_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def digest_of(fields: dict[str, Any]) -> str:
    """16 hex digits of SHA-256 over JSON with sorted keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]
