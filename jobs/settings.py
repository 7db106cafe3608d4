"""What can be set: the name of each setting, what it may be, and what it means.

A setting is a flag, a line of a job file, or both; each is described here alone.
Credentials are never among them: they come from where the AWS tools find them.
"""

from __future__ import annotations

import math
import re
from typing import Any, Final

from deeplab.tiles import BLENDS
from jobs.errors import InputError
from jobs.mask_choice import MASK_ENCODINGS
from jobs.policy import REACTIONS, STAGES
from jobs.setting_kinds import TEXT, Kind, Setting
from jobs.setting_kinds import choice as _choice
from jobs.setting_kinds import exactly as _exactly
from jobs.setting_kinds import parse_list as _parse_list
from jobs.setting_kinds import read_list as _read_list
from jobs.setting_kinds import read_number as _read_number
from jobs.sizes import KEEP, MASK_SIZES, RESIZES, parse_resize
from jobs.spec import MOSAICS
from jobs.truth_settings import TRUTH, TRUTH_SETTINGS

_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?) ?([smhd]?)")
_PERCENT: Final = re.compile(r"\d+(?:\.\d+)?%")


def _parse_seconds(text: str) -> float:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError
    return _read_seconds(float(match[1]) * _UNITS[match[2]])


def _read_seconds(value: Any) -> float:  # noqa: ANN401
    if isinstance(value, str):
        return _parse_seconds(value)
    if isinstance(value, bool) or not (math.isfinite(value) and value >= 0):
        raise ValueError
    return float(value)


def _parse_share(text: str) -> int | str:
    return text if _PERCENT.fullmatch(text) else int(text)


def _read_share(value: Any) -> int | str:  # noqa: ANN401
    return _parse_share(value) if isinstance(value, str) else _exactly(int)(value)


def _parse_reactions(text: str) -> tuple[str, ...]:
    return _read_reactions(text.split(","))


def _read_reactions(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    """All stages with their reaction; of two that name a stage the later one wins."""
    found = dict.fromkeys(STAGES, REACTIONS[0])
    for text in [value] if isinstance(value, str) else value:
        *stages, reaction = (part.strip() for part in str.rsplit(text, "=", 1))
        chosen = REACTIONS[REACTIONS.index(reaction)]
        for stage in stages or STAGES:
            found[STAGES[STAGES.index(stage)]] = chosen
    return tuple(f"{stage}={reaction}" for stage, reaction in found.items())


def _read_floors(value: Any) -> tuple[str, ...]:  # noqa: ANN401
    is_alone = type(value) in {int, float}
    return _read_list(str, int, float)([value] if is_alone else value)


def _parse_range(text: str) -> tuple[float, float]:
    low, high = _parse_list(float)(text)
    return low, high


def _read_range(value: Any) -> tuple[float, float]:  # noqa: ANN401
    low, high = _read_list(float, int)(value)
    return low, high


FLAG: Final = Kind(
    allowed="true or false",
    parse=lambda text: {"true": True, "false": False}[text],
    read=_exactly(bool),
)
WHOLE: Final = Kind(allowed="a whole number", parse=int, read=_exactly(int))
NUMBER: Final = Kind(allowed="a number", parse=float, read=_read_number)
BANDS: Final = Kind(
    allowed="band numbers such as 4,3,2", parse=_parse_list(int), read=_read_list(int)
)
RANGE: Final = Kind(
    allowed="two numbers such as 0,10000", parse=_parse_range, read=_read_range
)
CLASSES: Final = Kind(
    allowed="all, or names or numbers of classes such as water,road",
    parse=_parse_list(str),
    read=_read_list(str, int),
)
PLACES: Final = Kind(
    allowed="folders or s3:// prefixes, with commas between them",
    parse=_parse_list(str),
    read=_read_list(str),
)
FLOORS: Final = Kind(
    allowed="a number from 0 to 1, or one for each class such as road=0.7,car=0.5",
    parse=_parse_list(str),
    read=_read_floors,
)
SECONDS: Final = Kind(
    allowed="seconds, or a time such as 90s, 15m or 2h",
    parse=_parse_seconds,
    read=_read_seconds,
)
SHARE: Final = Kind(
    allowed="a whole number, or a share of the items such as 1%",
    parse=_parse_share,
    read=_read_share,
)
REACTION: Final = Kind(
    allowed="[STAGE=]dead-letter or [STAGE=]stop, and STAGE plan, read or segment",
    parse=_parse_reactions,
    read=_read_reactions,
)


RESIZE: Final = Kind(allowed=RESIZES, parse=parse_resize, read=parse_resize)
SCALES: Final = Kind(
    allowed="numbers such as 0.75,1,1.25",
    parse=_parse_list(float),
    read=_read_list(float, int),
)


SETTINGS: Final = {
    "bundle": Setting(kind=TEXT, about="Bundle file, local or s3://, or 'demo' for ours."),
    "limit": Setting(kind=WHOLE, about="Take the first N items only."),
    "source_column": Setting(
        kind=TEXT,
        about="Column of an index that holds locations, or of Parquet that holds images.  "
        "[default: uri, url, href, location or path; image, img, bytes and the like]",
    ),
    "asset": Setting(
        kind=TEXT,
        about="Asset of STAC Items to take.  [default: the one of role data]",
    ),
    "skip_done_in": Setting(
        kind=TEXT, about="Run folder: what it has done, and is as it was, is left out."
    ),
    "allow_http": Setting(
        kind=FLAG,
        default=False,
        about="Read images at http:// and https:// too, wherever an index leads.",
    ),
    "aoi": Setting(
        kind=TEXT,
        about="Area to map, the rest is nodata: west,south,east,north or a GeoJSON file, "
        "in WGS84.",
    ),
    **TRUTH_SETTINGS,
    "shard_items": Setting(
        kind=WHOLE,
        about="Most images, or small rasters, in a shard.  [default: 64; images on GPUs: "
        "512]",
    ),
    "shard_bytes": Setting(
        kind=WHOLE, default=256 * 2**20, about="Most bytes of input files in a shard."
    ),
    "file_bytes": Setting(
        kind=WHOLE,
        default=512 * 2**20,
        about="Most bytes of masks, before compression, in a file of two or more.",
    ),
    "min_confidence": Setting(
        kind=FLOORS,
        about="Pixels less sure become 254, ignore: 0.6, or by class road=0.7,car=0.5.",
    ),
    "mask_encoding": Setting(
        kind=_choice(*MASK_ENCODINGS),
        default=MASK_ENCODINGS[0],
        about="Masks as raw bytes, or as PNG, which viewers and datasets show.",
    ),
    "block": Setting(kind=WHOLE, default=4096, about="Block side in px."),
    "confidence": Setting(
        kind=FLAG, default=False, about="Write COGs of probabilities too."
    ),
    "probabilities": Setting(
        kind=CLASSES,
        about="Write COGs of the probabilities of these classes: all, or e.g. water,road.",
    ),
    "mosaic": Setting(
        kind=_choice(*MOSAICS),
        about="Write one raster of all scenes; where they overlap the first one wins, the "
        "most recent or the most confident.",
    ),
    "compression": Setting(
        kind=_choice("zstd", "deflate"), default="zstd", about="Of COGs: zstd or deflate."
    ),
    "tile": Setting(
        kind=WHOLE, about="Side of the network's tiles in px.  [default: the bundle's]"
    ),
    "overlap": Setting(
        kind=WHOLE, about="Px that neighbouring tiles share.  [default: the bundle's]"
    ),
    "blend": Setting(
        kind=_choice(*BLENDS),
        default=BLENDS[0],
        about="Where tiles overlap, hann: smoothly from one to the other; crop: the one "
        "whose centre is nearest; mean: all alike.",
    ),
    "scales": Setting(
        kind=SCALES,
        default=(1.0,),
        about="Show each tile at these scales, e.g. 0.75,1,1.25, and average.",
    ),
    "flip": Setting(kind=FLAG, default=False, about="Show tiles mirrored too."),
    "resize": Setting(
        kind=RESIZE,
        default=KEEP,
        about="Size at which images are seen: long=PX or short=PX, of that side; or none.",
    ),
    "mask_size": Setting(
        kind=_choice(*MASK_SIZES),
        default=MASK_SIZES[0],
        about="Masks of resized images have the size of the image, or as the model saw it.",
    ),
    "bands": Setting(
        kind=BANDS,
        about="Bands to read, e.g. 4,3,2.  [default: the first that the bundle needs]",
    ),
    "value_range": Setting(
        kind=RANGE,
        about="Values that are black and white, e.g. 0,10000; bands of uint8 need none.",
    ),
    "crs": Setting(
        kind=TEXT, about="Put rasters on this CRS first, e.g. EPSG:3857, with resolution."
    ),
    "resolution": Setting(
        kind=NUMBER, about="Pixel size on the way, in units of the CRS; grids align on it."
    ),
    "allow_vrt": Setting(
        kind=PLACES,
        about="Read VRTs too, whose sources all lie under one of these folders.",
    ),
    "local": Setting(kind=FLAG, default=False, about="One process, without Ray."),
    "address": Setting(kind=TEXT, about="Ray cluster to join, e.g. auto."),
    "replicas": Setting(kind=WHOLE, about="Models to hold.  [default: all that fit]"),
    "device": Setting(kind=_choice("auto", "cpu", "cuda"), default="auto", about="Device."),
    "threads": Setting(kind=WHOLE, default=1, about="CPU threads of a replica."),
    "precision": Setting(
        kind=_choice("fp32", "bf16"), default="fp32", about="Arithmetic: fp32 or bf16."
    ),
    "endpoint_url": Setting(kind=TEXT, about="S3 server other than AWS."),
    "anon": Setting(kind=FLAG, default=False, about="Send unsigned S3 requests."),
    "requester_pays": Setting(
        kind=FLAG, default=False, about="Accept to be billed for reads."
    ),
    "commit": Setting(
        kind=_choice("conditional", "single-driver"),
        default="conditional",
        about="single-driver: for a store without conditional writes or a file system "
        "without hard links; then never start a run twice at once.",
    ),
    "on_error": Setting(
        kind=REACTION,
        default=_read_reactions(()),
        about="What an error of an item does: dead-letter or stop; STAGE is plan, read "
        "or segment.  [default: dead-letter]",
    ),
    "max_dead_letters": Setting(
        kind=SHARE, about="Most dead letters before the run stops; 1% is of the items."
    ),
    "patience": Setting(
        kind=SECONDS,
        default=900.0,
        about="How long the store or the cluster may be down before the run stops.",
    ),
    "capacity_timeout": Setting(
        kind=SECONDS, default=300.0, about="How long to wait for room for a replica."
    ),
    "decode_timeout": Setting(
        kind=SECONDS, default=10.0, about="Most time to decode one image."
    ),
    "max_pixels": Setting(
        kind=WHOLE, default=100_000_000, about="Most pixels of an image to decode."
    ),
    "max_bytes": Setting(
        kind=WHOLE, default=2**30, about="Most bytes of an image's file to fetch."
    ),
    "allow_unauthenticated": Setting(
        kind=FLAG,
        default=False,
        about="Join a remote Ray cluster though it asks nobody for a token.",
    ),
}
"""By the name of the flag, with underscores; without a flag, by that in a job file."""

ACCESS: Final = ("endpoint_url", "anon", "requester_pays", "commit")
PLACE: Final = (
    "local",
    "address",
    "replicas",
    "patience",
    "capacity_timeout",
    "allow_unauthenticated",
)
READING: Final = ("bands", "value_range", "crs", "resolution", "allow_vrt")
POLICY: Final = ("on_error", "max_dead_letters")
PRODUCT: Final = ("confidence", "probabilities", "mosaic", "compression")
LIMITS: Final = ("decode_timeout", "max_pixels")
MASKS: Final = ("min_confidence", "mask_encoding")

_SOURCE: Final = ("bundle", "limit", "source_column", "asset")
_SHARDS: Final = ("shard_items", "shard_bytes")
_CUT: Final = (*_SHARDS, "block")
TILES: Final = ("tile", "overlap", "blend")
_IMAGES: Final = ("file_bytes", *MASKS, "max_bytes")
VIEWS: Final = ("scales", "flip")
SIZES: Final = ("resize", "mask_size")
_SHARED: Final = (*PLACE, *ACCESS, *POLICY, *LIMITS)
_SEEN: Final = (*TILES, *VIEWS)
_COMPUTE: Final = ("device", "precision", "threads")

COMMANDS: Final = {
    "label": (
        *_SOURCE,
        "skip_done_in",
        "allow_http",
        *_SHARDS,
        *SIZES,
        *_IMAGES,
        *_SEEN,
        *_COMPUTE,
        *_SHARED,
    ),
    "map": (*_SOURCE, "aoi", *_CUT, *READING, *PRODUCT, *_SEEN, *_COMPUTE, *_SHARED),
    "evaluate": (
        *_SOURCE,
        *TRUTH,
        "allow_http",
        *_CUT,
        "resize",
        "max_bytes",
        *READING,
        *_SEEN,
        *_COMPUTE,
        *_SHARED,
    ),
    "retry": ("bundle", "allow_vrt", "allow_http", *_SHARED, "max_bytes"),
}
"""What each command lets one set; any other takes ``ACCESS`` alone."""


def read_setting(name: str, value: object, where: str) -> Any:  # noqa: ANN401
    """A setting's value, of text or as a job file holds it.

    Args:
        name: One of ``SETTINGS``.
        value: What was given.
        where: Ends the sentence that refuses it, e.g. `` in job.toml``.

    Raises:
        InputError: It is of another kind, or none of the choices.
    """
    try:
        return SETTINGS[name].kind.read(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise _refusal(name, value, where) from None


def parse_setting(name: str, text: str, where: str = "") -> Any:  # noqa: ANN401
    """A setting's value, of the text that stands behind ``NAME=``.

    Raises:
        InputError: As in ``read_setting``.
    """
    try:
        return SETTINGS[name].kind.parse(text)
    except (ValueError, KeyError):
        raise _refusal(name, text, where) from None


def _refusal(name: str, value: object, where: str) -> InputError:
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return InputError(f"{name} must be {SETTINGS[name].kind.allowed}, got {shown}{where}")
