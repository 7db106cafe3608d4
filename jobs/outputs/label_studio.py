"""Masks as tasks of Label Studio, with predictions of brush labels.

The format is that of its manual ("Import pre-annotated data"): a task has the address
of an image, and its predictions a region for each class that occurs.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any, Final, Self
from xml.sax.saxutils import quoteattr

from jobs.outputs.json_stream import JsonArray
from jobs.outputs.runs import encode_brush, find_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo

FROM_NAME: Final = "mask"
TO_NAME: Final = "image"


class TaskWriter:
    """Writes a list of tasks as masks come; use as a context manager."""

    def __init__(self, path: Path, classes: Sequence[ClassInfo], version: str) -> None:
        """Begin a local file.

        Args:
            path: The file.
            classes: Their names are the labels.
            version: Says which model it was.
        """
        self._names = [one.name for one in classes]
        self._version = version
        self._file: IO[str] = path.open("w", encoding="ascii")
        self._tasks = JsonArray(self._file)
        self.annotations = 0

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the file."""
        self._tasks.end()
        self._file.write("\n")
        self._file.close()

    def add(self, image: str, mask: NDArray[np.uint8], score: float | None) -> None:
        """Append an image and its masks.

        Args:
            image: Address at which Label Studio finds it.
            mask: uint8 (H, W).
            score: Confidence of 0 to 1; None where there is none.
        """
        regions = [
            self._region(mask, value, rle) for value, rle in encode_brush(find_runs(mask))
        ]
        self.annotations += len(regions)
        prediction: dict[str, Any] = {"model_version": self._version, "result": regions}
        if score is not None:
            prediction["score"] = round(score, 6)
        self._tasks.add({"data": {TO_NAME: image}, "predictions": [prediction]})

    def _region(
        self, mask: NDArray[np.uint8], value: int, rle: list[int]
    ) -> dict[str, Any]:
        height, width = mask.shape
        return {
            "id": f"class-{value}",
            "type": "brushlabels",
            "from_name": FROM_NAME,
            "to_name": TO_NAME,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {"format": "rle", "rle": rle, "brushlabels": [self._names[value]]},
        }


def labeling_config(classes: Sequence[ClassInfo]) -> str:
    """What a project of Label Studio must be set up with to take the tasks."""
    labels = "".join(
        f"<Label value={quoteattr(one.name)} "
        f'background="#{one.color[0]:02x}{one.color[1]:02x}{one.color[2]:02x}"/>'
        for one in classes
    )
    return (
        f'<View><Image name="{TO_NAME}" value="${TO_NAME}"/>'
        f'<BrushLabels name="{FROM_NAME}" toName="{TO_NAME}">{labels}</BrushLabels></View>'
    )
