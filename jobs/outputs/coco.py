"""Masks as annotations of COCO: run lengths, polygons, or panoptic.

The format is that of cocodataset.org ("Data format"). A category's id is the class
plus one, as 0 is no category. Images and annotations are two lists that grow
together, so that the second is written beside the file and appended at the end.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final, Literal, Self

import numpy as np
from rasterio.features import shapes

from jobs.outputs.json_stream import JsonArray, copy_text, to_text
from jobs.outputs.runs import FIRST_OTHER, encode_coco, find_runs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo
    from jobs.outputs.runs import Runs

Form = Literal["rle", "polygons", "panoptic"]

Waiting = tuple[int, str, "NDArray[np.uint8]"]
"""Id of an image, name of its PNG, and its mask, uint8 (H, W)."""

_PIXELS_AT_ONCE: Final = 2**18
_ESCAPED: Final = {ord("\\"): "\\\\"}
"""The one letter of counts that JSON writes otherwise."""

FORMS: Final[tuple[Form, ...]] = ("rle", "polygons", "panoptic")


class CocoWriter:
    """Writes a COCO file as masks come; use as a context manager."""

    def __init__(
        self, path: Path, classes: Sequence[ClassInfo], form: Form, about: dict[str, Any]
    ) -> None:
        """Begin the file.

        Args:
            path: Local file to write; another one beside it is in use meanwhile.
            classes: The categories.
            form: How masks are written.
            about: What ``info`` says.
        """
        self._form: Form = form
        self._path = path
        self._beside = path.with_name(f"{path.name}.annotations")
        self._file: IO[str] = path.open("w", encoding="ascii")
        self._other: IO[str] = self._beside.open("w", encoding="ascii")
        categories = [_category(i, one, form) for i, one in enumerate(classes)]
        self._file.write(f'{{"info":{to_text(about)},\n"licenses":[],\n')
        self._file.write(f'"categories":{to_text(categories)},\n"images":')
        self._images = JsonArray(self._file)
        self._annotations = JsonArray(self._other)
        self._segments = 0
        self._waiting: list[Waiting] = []

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Append the annotations, unless something went wrong."""
        try:
            if kind is None:
                self._finish()
        finally:
            self._file.close()
            self._other.close()
            self._beside.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._flush()
        self._images.end()
        self._annotations.end()
        self._other.close()
        self._file.write(',\n"annotations":')
        copy_text(self._beside, self._file)
        self._file.write("}\n")

    @property
    def annotations(self) -> int:
        """How many there are so far: of panoptic, segments."""
        return self._segments

    def add(
        self, name: str, mask: NDArray[np.uint8], *, png: str = "", **more: object
    ) -> None:
        """Append an image and what its mask holds.

        Args:
            name: Name of the image's file.
            mask: uint8 (H, W).
            png: Name of its mask's file, for panoptic.
            more: Further fields of the image.
        """
        number = self._images.count + 1
        height, width = mask.shape
        image = {"id": number, "file_name": name, "width": width, "height": height}
        self._images.add(image | more)
        # Small masks of one size are taken together: most of the time that one alone
        # takes does not depend on how large it is.
        if self._waiting and (
            self._waiting[0][2].shape != mask.shape
            or (len(self._waiting) + 1) * mask.size > _PIXELS_AT_ONCE
        ):
            self._flush()
        self._waiting.append((number, png, mask))

    def _flush(self) -> None:
        """Write the annotations of the masks that wait."""
        write = _WRITERS[self._form]
        if self._waiting:
            for text, count in write(self._waiting, self._segments):
                self._segments += count
                self._annotations.add_text(text)
        self._waiting = []


def _category(number: int, info: ClassInfo, form: Form) -> dict[str, Any]:
    named = {"id": number + 1, "name": info.name, "supercategory": ""}
    if form == "panoptic":
        return named | {"isthing": 0, "color": list(info.color)}
    return named


def _write_rle(waiting: list[Waiting], number: int) -> Iterator[tuple[str, int]]:
    """One annotation for each class that occurs."""
    runs = _runs_of(waiting)
    counts, areas, boxes = encode_coco(runs), runs.areas().tolist(), runs.boxes().tolist()
    parts = zip(runs.owners, runs.classes, counts, areas, boxes, strict=True)
    for owner, value, text, area, box in parts:
        number += 1
        # By hand, as it is by far the most of all that is written.
        line = (
            f'{{"id":{number},"image_id":{waiting[owner][0]},"category_id":{value + 1},'
            f'"segmentation":{{"size":[{runs.height},{runs.width}],"counts":'
            f'"{text.translate(_ESCAPED)}"}},"area":{area},"bbox":{box},"iscrowd":0}}'
        )
        yield line, 1


def _write_panoptic(waiting: list[Waiting], _: int) -> Iterator[tuple[str, int]]:
    """One annotation for each image, with a segment for each class that occurs."""
    runs = _runs_of(waiting)
    found: list[list[dict[str, Any]]] = [[] for _ in waiting]
    parts = zip(
        runs.owners, runs.classes, runs.areas().tolist(), runs.boxes().tolist(), strict=True
    )
    for owner, value, area, box in parts:
        number = value + 1
        segment = {"id": number, "category_id": number, "area": area, "bbox": box}
        found[owner].append(segment | {"iscrowd": 0})
    for (image, png, _mask), segments in zip(waiting, found, strict=True):
        one = {"image_id": image, "file_name": png, "segments_info": segments}
        yield to_text(one), len(segments)


def _write_polygons(waiting: list[Waiting], number: int) -> Iterator[tuple[str, int]]:
    """One annotation for each part of a class that hangs together by sides."""
    for image, _, mask in waiting:
        for one in _polygons(mask):
            number += 1
            yield to_text({"id": number, "image_id": image} | one), 1


_WRITERS: Final = {
    "rle": _write_rle,
    "panoptic": _write_panoptic,
    "polygons": _write_polygons,
}


def _runs_of(waiting: list[Waiting]) -> Runs:
    return find_runs(np.stack([mask for _, _, mask in waiting]), by_column=True)


def _polygons(mask: NDArray[np.uint8]) -> Iterator[dict[str, Any]]:
    for outline, value in shapes(mask, mask=mask < FIRST_OTHER, connectivity=4):
        rings = [np.asarray(ring, dtype=np.int64) for ring in outline["coordinates"]]
        low, high = rings[0].min(axis=0), rings[0].max(axis=0)
        yield {
            "category_id": int(value) + 1,
            "segmentation": [join_rings(rings).ravel().tolist()],
            "area": int(abs(sum(_signed_area(ring) for ring in rings))),
            "bbox": [*low.tolist(), *(high - low).tolist()],
            "iscrowd": 0,
        }


def join_rings(rings: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """One ring of an outline and its holes, (N, 2); COCO has no holes.

    A line leads to each hole, round it, and back. It is gone along twice, once in
    each direction, so that it encloses nothing.
    """
    outer, *holes = (ring[:-1] for ring in rings)
    if not holes:
        return outer
    # From the corner that is nearest, which keeps the lines short.
    starts = sorted(
        ((*_nearest(outer, hole), hole) for hole in holes), key=lambda one: one[0]
    )
    parts, done = [], 0
    for start, turn, hole in starts:
        tour = np.roll(hole, -turn, axis=0)
        parts += [outer[done : start + 1], tour, tour[:1], outer[start : start + 1]]
        done = start + 1
    return np.concatenate([*parts, outer[done:]])


def _nearest(outer: NDArray[np.int64], hole: NDArray[np.int64]) -> tuple[int, int]:
    """A corner of the outline, and one of the hole, that are near each other."""
    first = hole[0]
    start = int(np.abs(outer - first).sum(axis=1).argmin())
    turn = int(np.abs(hole - outer[start]).sum(axis=1).argmin())
    return start, turn


def _signed_area(ring: NDArray[np.int64]) -> float:
    """Of a closed ring; holes run the other way round."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)
