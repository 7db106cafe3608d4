"""Look at the scenes of a mosaic, and read them, in decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jobs.errors import ItemError
from jobs.inputs.decoding import ask_raster, checked, is_vrt, reading_fields
from jobs.inputs.raster_scenes import Place

if TYPE_CHECKING:
    from deeplab.tiles import Window
    from jobs.inputs.frames import Arrays
    from jobs.shards import Item
    from jobs.spec import Spec


def begin_at(spec: Spec, item: Item) -> tuple[str, str]:
    """The grid of a mosaic whose first scene this is, and when the scene was taken.

    Args:
        spec: Says how to reach and read it.
        item: The scene.

    Returns:
        JSON for ``parse_grid``; ISO 8601, or empty text where it does not say.

    Raises:
        ItemError: It cannot be part of a mosaic.
        StoreError: The store did not answer.
    """
    found = _ask(spec, item, "begin", size=item.size)
    return found["grid"], found["taken"]


def find_box(spec: Spec, item: Item, grid: str, *, dated: bool = False) -> Place:
    """Where a scene lies on a mosaic's grid.

    Args:
        spec: Says how to reach and read it.
        item: The scene.
        grid: The mosaic's.
        dated: Whether to look when it was taken.

    Raises:
        ItemError: It cannot be part of a mosaic.
        StoreError: The store did not answer.
    """
    return Place(**_ask(spec, item, "place", size=item.size, grid=grid, dated=dated))


def read_scene(spec: Spec, item: Item, grid: str, window: Window) -> Arrays:
    """Read a window of a scene as it lies on a mosaic's grid.

    Args:
        spec: Says how to reach and read it.
        item: The scene.
        grid: The mosaic's.
        window: In px of that grid, from the scene's own corner.

    Returns:
        Pixels, uint8 (bands, H, W); and validity, bool (H, W).

    Raises:
        ItemError: As in ``decoding.read_window``.
        StoreError: The store did not answer.
    """
    box = [window.row, window.col, window.height, window.width]
    fields = _fields(spec) | {"grid": grid, "window": box}
    _, arrays = ask_raster("scene", fields, item.uri, spec.access, spec.limits)
    pixels, valid = checked(arrays, bands=fields["bands"])
    if valid.shape != (window.height, window.width):
        raise ItemError("crashed_decoder", f"the decoder gave {valid.shape} for {window}")
    return pixels, valid


def _ask(spec: Spec, item: Item, kind: str, **more: object) -> dict[str, Any]:
    if is_vrt(item.uri):
        raise ItemError(
            "unsupported", "it is a VRT, which cannot be part of a mosaic; name its sources"
        )
    fields = _fields(spec) | more
    found, _ = ask_raster(kind, fields, item.uri, spec.access, spec.limits)
    return {**found}


def _fields(spec: Spec) -> dict[str, Any]:
    return {"bands": len(spec.bundle.bands), **reading_fields(spec.reading)}
