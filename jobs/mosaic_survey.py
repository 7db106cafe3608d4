"""What a mosaic is planned from: where its scenes lie, and which of them win."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from deeplab.tiles import Window
from jobs.errors import InputError, ItemError
from jobs.inputs.area import place_area
from jobs.inputs.placing import begin_at, find_box
from jobs.inputs.raster_grid import MAX_SIDE
from jobs.inputs.raster_scenes import move_grid
from jobs.inputs.rasters import MAX_PIXELS
from jobs.inputs.sources import find_dates, find_items, raster_suffixes
from jobs.mosaic import Scene, moved, overlap, surround
from jobs.prefetch import map_ahead
from jobs.shards import Refusal
from jobs.storage import open_store

if TYPE_CHECKING:
    from jobs.inputs.raster_scenes import Place
    from jobs.shards import Item
    from jobs.spec import Spec

Question = Callable[[], Any]
Ask = Callable[["Item", Question], Any]
"""Asks a question about a scene: its answer, or a refusal."""

_HEADER_READERS: Final = 8

_UNDATED: Final = Refusal(
    code="unsupported",
    message="nothing says when it was taken: neither datetime in an index, nor its tags "
    "ACQUISITIONDATETIME and TIFFTAG_DATETIME, which --mosaic recent asks for",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """All that a mosaic is planned from."""

    grid: str
    """Where it lies, for ``parse_grid``."""

    height: int
    width: int
    scenes: list[Scene]
    """In the order in which they win."""

    refused: list[tuple[Item, Refusal]]
    """What cannot be part of it."""


def survey(spec: Spec, ask: Ask) -> Survey:
    """Look at all scenes of a source; memory is a small record of each.

    Args:
        spec: What to look at.
        ask: How.

    Raises:
        InputError: No scene can be part of a mosaic, or it would be too large.
    """
    store, suffixes = open_store(spec.access), raster_suffixes(spec.reading)
    listed = find_items(store, spec.source, suffixes, limit=spec.limit, pick=spec.pick)
    items = list(listed)
    is_dated = spec.product.mosaic == "recent"
    dates = find_dates(store, spec.source, spec.pick) if is_dated else {}
    search = _Search(spec, ask, dates, is_dated=is_dated)
    anchor = search.begin(items)
    scenes, refused = [], []
    look = functools.partial(search.look, anchor)
    answers = map_ahead(look, items, threads=_HEADER_READERS)
    for item, found in zip(items, answers, strict=True):
        if isinstance(found, Refusal):
            refused.append((item, found))
        else:
            scenes.append(found)
    if not scenes:
        raise _no_scene(spec, len(items), refused[0][1])
    if is_dated:  # stable: scenes of one time stay in the order of their locations
        scenes.sort(key=lambda scene: scene.taken, reverse=True)
    frame = _frame(spec, anchor, scenes)
    return Survey(
        grid=move_grid(anchor, frame.row, frame.col),
        height=frame.height,
        width=frame.width,
        scenes=[
            replace(scene, box=moved(scene.box, -frame.row, -frame.col))
            for scene in scenes
            if overlap(scene.box, frame)
        ],
        refused=refused,
    )


class _Search:
    """Asks scenes for their place and time."""

    def __init__(
        self, spec: Spec, ask: Ask, dates: dict[str, str], *, is_dated: bool
    ) -> None:
        self._spec, self._ask, self._dates = spec, ask, dates
        self._is_dated = is_dated

    def begin(self, items: list[Item]) -> str:
        """The grid of the first scene that can be part of the mosaic."""
        first: Refusal | None = None
        for item in items:
            found = self._ask(item, functools.partial(begin_at, self._spec, item))
            if not isinstance(found, Refusal):
                grid: str = found[0]
                if not self._is_dated or self._dates.get(item.uri) or found[1]:
                    return grid
                found = _UNDATED
            first = first or found
        raise _no_scene(self._spec, len(items), first or _UNDATED)

    def look(self, grid: str, item: Item) -> Scene | Refusal:
        """Find out where a scene lies, and when it was taken."""
        said = self._dates.get(item.uri, "")
        dated = self._is_dated and not said
        ask = functools.partial(find_box, self._spec, item, grid, dated=dated)
        found: Place | Refusal = self._ask(item, ask)
        if isinstance(found, Refusal):
            return found
        taken = said or found.taken
        if self._is_dated and not taken:
            return _UNDATED
        return Scene(item=item, box=to_window(found), taken=taken)


def to_window(place: Place) -> Window:
    """The pixels of a scene, from the origin of the mosaic's grid."""
    return Window(row=place.row, col=place.col, height=place.height, width=place.width)


def _no_scene(spec: Spec, count: int, first: Refusal) -> InputError:
    return InputError(
        f"none of {count} scenes under {spec.source} can be part of a mosaic; of the "
        f"first one: {first.message}"
    )


def _frame(spec: Spec, anchor: str, scenes: list[Scene]) -> Window:
    """What the mosaic covers: all scenes, or the part of them in the area."""
    frame = surround(scenes)
    if spec.area:
        grid = move_grid(anchor, frame.row, frame.col)
        try:
            inside = place_area(spec.area, grid, frame.height, frame.width)
        except ItemError as error:
            raise InputError(f"the area cannot limit it: {error.message}") from error
        bounds = inside.bounds
        if bounds is None:
            raise InputError(
                f"the area touches none of {len(scenes)} scenes; check --aoi, which is in "
                "longitude and latitude"
            )
        frame = moved(bounds, frame.row, frame.col)
        count = sum(overlap(scene.box, frame) is not None for scene in scenes)
        sys.stderr.write(f"{count} of {len(scenes)} scenes touch the area's bounds\n")
    if frame.size > MAX_PIXELS or max(frame.height, frame.width) > MAX_SIDE:
        raise InputError(
            f"the mosaic would have {frame.width} x {frame.height} px, which exceed "
            f"{MAX_PIXELS} pixels or {MAX_SIDE} along a side; give a larger -c resolution, "
            "--aoi, or scenes that lie nearer to each other"
        )
    return frame
