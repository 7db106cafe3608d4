"""Masks of images as Parquet: one row per image, the mask as raw bytes.

The mask is row-major uint8 in a ``large_binary`` column, compressed by Parquet
itself with ZSTD level 1 and no dictionary: 5 to 14 times faster to encode than
PNG and 1.4 to 2.8 times smaller. Read one with
``numpy.frombuffer(mask, "uint8").reshape(height, width)``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from deeplab.bundle import Bundle
    from jobs.job import Result

SCHEMA_VERSION: Final = 1
NODATA: Final = 255

SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        # Class ids 0 to 253; 255 where the image is fully transparent.
        pa.field("mask", pa.large_binary(), nullable=False),
        pa.field("mask_encoding", pa.string(), nullable=False),
        # Pixels of class 0, 1, 2, ...
        pa.field("class_pixels", pa.list_(pa.int64()), nullable=False),
        # 0 to 1, over the pixels that have a class; null where none has.
        pa.field("mean_confidence", pa.float32()),
        pa.field("bundle_digest", pa.string(), nullable=False),
    ]
)

_GROUP_BYTES: Final = 64 * 2**20
"""Uncompressed bytes of a row group: what a reader must hold at least."""


_RECORD: Final = "atrous_record"


class MaskWriter:
    """Writes rows to a local Parquet file, one row group in memory at a time."""

    def __init__(self, path: Path, bundle: Bundle) -> None:
        """Open the file; use as a context manager, so that it is finished."""
        self._bundle = bundle
        self._rows: list[dict[str, Any]] = []
        self._held = 0
        self._file = pq.ParquetWriter(
            path,
            SCHEMA.with_metadata(_metadata(bundle)),
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=["uri", "key", "height", "width", "mean_confidence"],
        )

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the last row group and the footer."""
        self._flush()
        self._file.close()

    def add(self, result: Result) -> None:
        """Append one image's mask."""
        mask = result.segmentation.mask
        if self._rows and self._held + mask.size > _GROUP_BYTES:
            self._flush()
        self._rows.append(_row(result, self._bundle))
        self._held += mask.size

    def sign(self, record: str) -> None:
        """Keep the shard's record in the file, for an attempt that comes too late."""
        self._file.add_key_value_metadata({_RECORD: record})

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
        self._rows, self._held = [], 0


def read_record(data: bytes) -> str:
    """The record that a file was signed with.

    Raises:
        ValueError: There is none, or it is no Parquet file.
    """
    metadata = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    if _RECORD.encode() not in metadata:
        raise ValueError("the file holds no record of its shard")
    text: str = metadata[_RECORD.encode()].decode()
    return text


def read_masks(path: Path) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Keys and masks, uint8 (H, W), of a local file, one row group at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            columns = ["key", "height", "width", "mask"]
            for row in file.read_row_group(group, columns=columns).to_pylist():
                mask = np.frombuffer(row["mask"], dtype=np.uint8)
                yield row["key"], mask.reshape(row["height"], row["width"])


def _row(result: Result, bundle: Bundle) -> dict[str, Any]:
    mask, confidence = result.segmentation.mask, result.segmentation.confidence
    classes = len(bundle.classes)
    known = mask < classes
    height, width = mask.shape
    return {
        "uri": result.item.uri,
        "key": result.item.key,
        "height": height,
        "width": width,
        "mask": mask.tobytes(),
        "mask_encoding": "raw",
        "class_pixels": np.bincount(mask[known], minlength=classes).tolist(),
        "mean_confidence": confidence[known].mean() / 255 if known.any() else None,
        "bundle_digest": bundle.digest,
    }


def _metadata(bundle: Bundle) -> dict[str, str]:
    fields = {
        "schema_version": SCHEMA_VERSION,
        "classes": [asdict(info) for info in bundle.classes],
        "nodata": NODATA,
    }
    return {"atrous": json.dumps(fields)}
