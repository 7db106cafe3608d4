"""Our two output files beside what others would write for the same masks."""

import io
import json
import warnings

import numpy as np
import rasterio.shutil
from PIL import Image
from provenance import missing, say
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from deeplab.pictures import Segmentation
from jobs.job import Result
from jobs.outputs.cog import Assembler, Legend
from jobs.outputs.levels import MASK, Codec
from jobs.outputs.masks import MaskWriter
from jobs.outputs.pieces import encode_piece
from jobs.shards import Item
from jobs.windows import cut_blocks


def mask_encoders(folder, header, masks):
    """Functions that encode all masks, and the bytes that came out of each."""
    confidence = np.full_like(masks[0], 200)
    results = [
        Result(
            item=Item(uri=f"/{number}.jpg", key=f"{number}.jpg", size=1, etag=""),
            segmentation=Segmentation(mask=mask, confidence=confidence),
        )
        for number, mask in enumerate(masks)
    ]
    sizes = {}

    def parquet():
        path = folder / "masks.parquet"
        with MaskWriter(path, header) as writer:
            for result in results:
                writer.add(result)
        sizes["parquet zstd-1"] = path.stat().st_size

    def png(level):
        files = [io.BytesIO() for _ in masks]
        for file, mask in zip(files, masks, strict=True):
            Image.fromarray(mask).save(file, "PNG", compress_level=level)
        sizes[f"png {level}"] = sum(file.tell() for file in files)

    functions = {
        "parquet zstd-1": parquet,
        "png 1": lambda: png(1),
        "png 6": lambda: png(6),
    }
    return functions, sizes


def cog_writers(folder, header, mask):
    """Functions that write one mask as COG, and the bytes of each file."""
    sizes = {}
    place = {"crs": "EPSG:32636", "transform": from_origin(450_000, 40_000, 0.3, 0.3)}
    grid = {"height": len(mask), "width": len(mask), **place}
    text = {"crs": CRS.from_epsg(32636).to_wkt(), "gcps": []}
    text = json.dumps(text | {"transform": list(place["transform"])[:6]})

    def ours():
        path = folder / "ours"
        legend, codec = Legend(bundle=header, fingerprint=""), Codec("zstd")
        side = len(mask) // 2
        with (folder / "spool").open("w+b") as spool:
            raster = Assembler(mask.shape, side, [MASK], codec=codec, spool=spool)
            for part in cut_blocks(*mask.shape, side):
                core = part.core
                pixels = mask[core.row : core.stop_row, core.col : core.stop_col]
                piece = encode_piece(part, [(MASK, pixels)], side=side, codec=codec)
                raster.add(core, piece)
            raster.write(path, MASK, grid=text, legend=legend)
        sizes["ours"] = path.stat().st_size

    def theirs(name, write):
        path = folder / "theirs"
        with MemoryFile() as memory:
            kind = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255}
            with memory.open(**kind, **grid) as plain:
                plain.write(mask, 1)
            with memory.open() as plain:
                write(plain, path)
        sizes[name] = path.stat().st_size

    functions = {"ours": ours}
    for name, write in _peers().items():
        functions[name] = lambda name=name, write=write: theirs(name, write)
    return functions, sizes


def _peers():
    like_ours = {"COMPRESS": "ZSTD", "LEVEL": 1, "OVERVIEW_RESAMPLING": "MODE"}
    peers = {
        "gdal COG zstd-1 mode": _gdal(**like_ours),
        "gdal COG deflate mode": _gdal(COMPRESS="DEFLATE", OVERVIEW_RESAMPLING="MODE"),
        "gdal COG defaults": _gdal(),
    }
    if missing(["rio_cogeo"]):
        say("rio-cogeo is not installed; its column is left out")
    else:
        peers["rio-cogeo zstd mode"] = _rio_cogeo
    return peers


def _gdal(**settings):
    def write(plain, path):
        rasterio.shutil.copy(plain, path, driver="COG", **settings)

    return write


def _rio_cogeo(plain, path):
    from rio_cogeo.cogeo import cog_translate
    from rio_cogeo.profiles import cog_profiles

    with warnings.catch_warnings():
        # That readers without ZSTD exist is known.
        warnings.filterwarnings("ignore", message="Non-standard compression")
        profile = cog_profiles.get("zstd")
    cog_translate(
        plain, path, profile, overview_resampling="mode", in_memory=True, quiet=True
    )
