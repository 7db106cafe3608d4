"""Have masks decoded, in processes that may hang, crash or eat memory.

The same decoders as those of images in ``jobs.inputs.decoding``, for what is to be taken
as it is stored.
"""

from __future__ import annotations

import atexit
import functools
import os
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jobs.errors import ItemError, StoreError
from jobs.inputs.decoding import RASTER_FACTOR, Decoders
from jobs.inputs.gdal_names import gdal_path, s3_options
from jobs.storage import S3
from jobs.truth_map import IGNORE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deeplab.tiles import Window
    from jobs.inputs.frames import Arrays
    from jobs.spec import Limits
    from jobs.storage import Access
    from jobs.truth_map import ClassMap

_IMAGES: Final = "jobs.inputs.truth_images"
_RASTERS: Final = "jobs.inputs.raster_truth"
_PROCESSES: Final = {_IMAGES: 2, _RASTERS: 4}
_WIDE: Final = 2
_COLORS: Final = 3
_BYTE: Final = 256


def decode_mask(data: bytes, lookup: ClassMap, limits: Limits) -> NDArray[np.uint8]:
    """Class ids of a mask that is an image file, uint8 (H, W).

    Args:
        data: The file's bytes.
        lookup: What ids or colours are.
        limits: What decoding may take.

    Raises:
        ItemError: ``wrong_truth``: an id or a colour is no class; or as in
            ``jobs.inputs.decoding.decode_image``.
    """
    fields = {
        "max_pixels": limits.max_pixels,
        "colors": [f"#{color:06x}" for color in lookup.colors.tolist()],
        "by_color": lookup.by_color,
    }
    if not data:
        raise ItemError("undecodable", "the file is empty")
    decoders = _decoders(_IMAGES, os.getpid())
    _, arrays = decoders.ask("mask", fields, data, seconds=limits.seconds)
    return _to_classes(arrays, lookup)


def read_mask(
    uri: str,
    window: Window,
    lookup: ClassMap,
    *,
    place: tuple[int, int, str],
    access: Access,
    limits: Limits,
) -> NDArray[np.uint8]:
    """Class ids of a window of a mask that is a GeoTIFF, uint8 (H, W).

    Args:
        uri: Where it lies.
        window: What to read.
        lookup: What ids or colours are.
        place: Height, width and grid of the raster that it must lie on.
        access: How to reach it.
        limits: What reading may take.

    Raises:
        ItemError: ``wrong_truth``: it lies elsewhere, or something in it is no class; or as
            in ``jobs.inputs.decoding.read_window``.
        StoreError: The store did not answer.
    """
    box = [window.row, window.col, window.height, window.width]
    fields: dict[str, Any] = {
        "window": box,
        "place": list(place),
        "path": gdal_path(uri),
        "options": s3_options(access),
    }
    decoders = _decoders(_RASTERS, os.getpid())
    try:
        _, arrays = decoders.ask("mask", fields, seconds=RASTER_FACTOR * limits.seconds)
    except ItemError as error:
        if uri.startswith(S3) and error.code in {"unreachable", "timed_out"}:
            raise StoreError(f"{uri} cannot be read: {error.message}") from error
        raise
    return _to_classes(arrays, lookup)


def _to_classes(arrays: Arrays | None, lookup: ClassMap) -> NDArray[np.uint8]:
    if arrays is None:
        raise ItemError("crashed_decoder", "the decoder's answer makes no sense")
    bands, known = arrays
    if not known.any():
        return np.full(known.shape, IGNORE, dtype=np.uint8)
    if not known.all():
        # What is transparent may have any colour, or id: it gets one that is there.
        row, col = np.unravel_index(int(known.argmax()), known.shape)
        bands = np.where(known, bands, bands[:, row : row + 1, col : col + 1])
    if len(bands) == _COLORS:
        ids = lookup.of_colors(bands)
    elif len(bands) == _WIDE:
        ids = lookup.of_ids(bands[0].astype(np.uint16) * _BYTE + bands[1])
    else:
        ids = lookup.of_ids(bands[0])
    ids[~known] = IGNORE
    return ids


@functools.lru_cache(maxsize=4)
def _decoders(module: str, _process: int) -> Decoders:
    """The decoders of this process: a copy of it, made by fork, has its own."""
    decoders = Decoders(module, processes=_PROCESSES[module])
    atexit.register(decoders.close)
    return decoders
