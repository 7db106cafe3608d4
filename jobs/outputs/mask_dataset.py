"""Images and masks as Parquet that Hugging Face ``datasets`` loads with its types.

Both are ``struct<bytes, path>``, which its ``Image`` feature decodes; the types stand
in the file's metadata under ``huggingface``, where ``datasets`` looks for them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from deeplab.bundle import ClassInfo

_PICTURE: Final = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_SCHEMA: Final = pa.schema(
    [
        pa.field("image", _PICTURE),
        pa.field("mask", _PICTURE),
        pa.field("key", pa.string()),
        pa.field("uri", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("class_pixels", pa.list_(pa.int64())),
        pa.field("mean_confidence", pa.float32()),
    ]
)
_GROUP_BYTES: Final = 16 * 2**20
"""Of a row group: what a reader must hold at least."""

_GROUP_ROWS: Final = 1000
"""Of a row group: what the page of a data set shows must be read quickly."""


class DatasetWriter:
    """Writes rows into Parquet files of bounded size; use as a context manager."""

    def __init__(
        self, folder: Path, *, most: int, done: Callable[[str, Path], None]
    ) -> None:
        """Write below a local folder.

        Args:
            folder: Where files lie in the making.
            most: Bytes of images and masks in a file; one row at least.
            done: Takes the name of a finished file, and the file.
        """
        self._folder, self._most, self._done = folder, most, done
        self._file: pq.ParquetWriter | None = None
        self._rows: list[dict[str, Any]] = []
        self._held = self._written = 0
        self.files = 0

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Write the last rows, unless something went wrong."""
        if kind is None:
            if self._rows or not self.files:
                self._flush()
            self._end()
        elif self._file is not None:
            self._file.close()

    def add(self, row: dict[str, Any]) -> None:
        """Append a row, with the columns of the data set."""
        pictures = (row[name] or {} for name in ("image", "mask"))
        size = sum(len(picture.get("bytes") or b"") for picture in pictures)
        if self._rows and self._held + size > min(_GROUP_BYTES, self._most):
            self._flush()
        if self._written and self._written + self._held + size > self._most:
            self._flush()
            self._end()
        self._rows.append(row)
        self._held += size
        if len(self._rows) == _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        if self._file is None:
            metadata = {"huggingface": json.dumps({"info": {"features": FEATURES}})}
            # What is compressed already gains nothing; of masks alone a little.
            self._file = pq.ParquetWriter(
                self._folder / "part.parquet",
                _SCHEMA.with_metadata(metadata),
                compression="zstd",
                compression_level=1,
                use_dictionary=False,
                write_page_index=True,
            )
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=_SCHEMA))
        self._written += self._held
        self._rows, self._held = [], 0

    def _end(self) -> None:
        if self._file is None:
            return
        self._file.close()
        self._file = None
        self._done(f"data/train-{self.files:05d}.parquet", self._folder / "part.parquet")
        self.files += 1
        self._written = 0


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


FEATURES: Final[dict[str, Any]] = {
    "image": {"_type": "Image"},
    "mask": {"_type": "Image"},
    "key": _value("string"),
    "uri": _value("string"),
    "height": _value("int32"),
    "width": _value("int32"),
    "class_pixels": {"feature": _value("int64"), "_type": "Sequence"},
    "mean_confidence": _value("float32"),
}


def write_card(classes: Sequence[ClassInfo], about: dict[str, Any]) -> str:
    """The data set's README.md, whose head says where its files are."""
    names = "\n".join(
        f"| {number} | {_cell(one.name)} | `#{bytes(one.color).hex()}` |"
        for number, one in enumerate(classes)
    )
    return f"""---
task_categories:
- image-segmentation
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

# Masks of {about["images"]} images

Written by Atrous; the masks are a network's (bundle `{about["bundle"]}`), not people's.

`mask` is a PNG of the size of its image, upright as EXIF says. Its values:

| value | class | colour |
|---|---|---|
{names}
| 255 | ignore: no data, or too little confidence | |

`class_pixels` counts the pixels of each class in the order of this table, and
`mean_confidence`, 0 to 1, is over the pixels that have a class.
"""


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
