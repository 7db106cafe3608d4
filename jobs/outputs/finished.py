"""Read the finished masks of a run, local or on S3, window by window."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rasterio.windows import Window as GdalWindow

from jobs.errors import InputError, ItemError, RunError, StoreError
from jobs.inputs.gdal_names import gdal_path, s3_options
from jobs.inputs.rasters import open_raster
from jobs.outputs.earth import Ground
from jobs.outputs.regions import Pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deeplab.tiles import Window
    from jobs.storage import Access

_UNREACHABLE: Final = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A raster of a run that is done."""

    name: str
    """Of its COG, e.g. ``scene.tif``."""

    mask: str
    """Where the COG lies."""

    confidence: str | None
    """Where the COG of its confidence lies; None where there is none."""


def read_ground(one: Finished, access: Access) -> Ground:
    """Size and place of a raster.

    Raises:
        InputError: It lies where control points say.
        ItemError: It cannot be read.
        StoreError: The store does not answer.
    """
    with _explained(one.mask), open_raster(gdal_path(one.mask), s3_options(access)) as mask:
        points, _ = mask.gcps
        if points:
            raise InputError(
                f"{one.name} has control points in place of a grid, so its pixels have no "
                "one place; warp it with gdalwarp, map that, and export it"
            )
        return Ground(
            name=one.name,
            height=mask.height,
            width=mask.width,
            crs=None if mask.crs is None else mask.crs.to_wkt(),
            transform=tuple(mask.transform)[:6],
        )


@contextlib.contextmanager
def open_finished(
    one: Finished, access: Access
) -> Iterator[tuple[tuple[int, int], Callable[[Window], Pixels]]]:
    """Height and width of a raster, and what reads a window of it.

    Raises:
        ItemError: It cannot be read.
        RunError: Its confidence has another size.
        StoreError: The store does not answer.
    """
    options = s3_options(access)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_explained(one.mask))
        mask = stack.enter_context(open_raster(gdal_path(one.mask), options))
        sure = None
        if one.confidence is not None:
            sure = stack.enter_context(open_raster(gdal_path(one.confidence), options))
            if sure.shape != mask.shape:
                raise RunError(
                    f"{one.confidence} has {sure.shape} px, its mask {mask.shape}; see "
                    "atrous verify --deep"
                )

        def read(window: Window) -> Pixels:
            box = GdalWindow(window.col, window.row, window.width, window.height)
            return Pixels(
                mask=mask.read(1, window=box),
                confidence=None if sure is None else sure.read(1, window=box),
            )

        yield mask.shape, read


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Say which object it was, and tell a store that fails from a file that is wrong."""
    try:
        yield
    except ItemError as error:
        if error.code == _UNREACHABLE:
            raise StoreError(f"{uri} cannot be read: {error.message}") from error
        raise ItemError(error.code, f"{uri}: {error.message}") from error
