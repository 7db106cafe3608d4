"""Masks as XML of "CVAT for images 1.1", with ``<mask>`` elements.

The format is that of CVAT's manual ("XML annotation format"): a mask lies in its
box, as counts along the rows of zeros and ones in turn, zeros first.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING, Final, Self
from xml.sax.saxutils import escape, quoteattr

from jobs.outputs.runs import encode_boxes, find_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from deeplab.bundle import ClassInfo

_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What XML 1.0 cannot hold, however it is written."""


class CvatWriter:
    """Writes annotations as masks come; use as a context manager."""

    def __init__(self, path: Path, classes: Sequence[ClassInfo]) -> None:
        """Begin a local file, with a label for each class."""
        self._names = [one.name for one in classes]
        self._images = self.annotations = 0
        self._file: IO[str] = path.open("w", encoding="utf-8")
        self._file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n')
        self._file.write("<version>1.1</version>\n<meta><task><labels>\n")
        for one in classes:
            color = "#{:02x}{:02x}{:02x}".format(*one.color)
            self._file.write(
                f"<label><name>{escape(_clean(one.name))}</name><color>{color}</color>"
                "<type>mask</type><attributes></attributes></label>\n"
            )
        self._file.write("</labels></task></meta>\n")

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the file."""
        self._file.write("</annotations>\n")
        self._file.close()

    def add(self, name: str, mask: NDArray[np.uint8]) -> None:
        """Append an image and its masks.

        Args:
            name: Name of the image's file.
            mask: uint8 (H, W).
        """
        height, width = mask.shape
        self._file.write(
            f'<image id="{self._images}" name={_quote(name)} width="{width}" '
            f'height="{height}">\n'
        )
        self._images += 1
        for value, (left, top, across, down), counts in encode_boxes(find_runs(mask)):
            self.annotations += 1
            self._file.write(
                f'<mask label={_quote(self._names[value])} source="auto" occluded="0" '
                f'rle="{", ".join(map(str, counts))}" left="{left}" top="{top}" '
                f'width="{across}" height="{down}" z_order="0"></mask>\n'
            )
        self._file.write("</image>\n")


def _quote(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
