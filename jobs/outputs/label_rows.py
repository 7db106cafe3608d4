"""Read files of masks row by row, whichever columns they have and however masks lie.

Masks are not copied: each is a view of the few megabytes that were read with it.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.outputs.mask_png import decode_mask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from jobs.shards import Item, Shard

MASK: Final = "mask"

_NEEDED: Final = ("uri", "key", "height", "width", MASK)
_BATCH_BYTES: Final = 4 * 2**20
_BATCH_ROWS: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRow:
    """An image that was labelled."""

    fields: dict[str, Any]
    """Every column that was asked for, but ``mask``."""

    mask: NDArray[np.uint8]
    """(H, W): 0 to 253 are classes, 254 is "ignore", 255 is nodata; empty where it was
    not asked for."""

    source: tuple[Shard, Item] | None = None
    """What was planned, where that was asked for."""

    @property
    def uri(self) -> str:
        """Where the image lies."""
        return str(self.fields["uri"])

    @property
    def key(self) -> str:
        """Its name in the source."""
        return str(self.fields["key"])

    @property
    def confidence(self) -> float | None:
        """0 to 1, over the pixels that have a class; None where none has."""
        value = self.fields.get("mean_confidence")
        return None if value is None else float(value)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the upright image; of the mask, where it is not known."""
        fields = self.fields
        height, width = fields.get("image_height"), fields.get("image_width")
        return (height, width) if height and width else (fields["height"], fields["width"])


class MaskFile:
    """A file of masks, open for reading."""

    def __init__(self, source: Path | pa.NativeFile) -> None:
        """Read its footer; use as a context manager, so that it is closed.

        Raises:
            ValueError: It is damaged, or holds no masks.
        """
        with _parquet_errors():
            self._file = pq.ParquetFile(source, pre_buffer=True)
        self.columns: tuple[str, ...] = tuple(self._file.schema_arrow.names)
        missing = [name for name in _NEEDED if name not in self.columns]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")

    def __enter__(self) -> Self:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self._file.close()

    @property
    def classes(self) -> list[str]:
        """Names of the classes, as the file itself has them.

        Raises:
            ValueError: It does not say.
        """
        try:
            metadata = self._file.metadata.metadata or {}
            return [str(one["name"]) for one in json.loads(metadata[b"atrous"])["classes"]]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("it does not tell its classes") from error

    def rows(self, columns: tuple[str, ...] | None = None) -> Iterator[LabelRow]:
        """All rows in order; a few megabytes of masks are held at once.

        Args:
            columns: To read; those that the file lacks are left out. None for all.

        Raises:
            ValueError: It is damaged.
        """
        chosen = [one for one in self.columns if columns is None or one in columns]
        for group in range(self._file.num_row_groups):
            with _parquet_errors():
                yield from self._read_group(group, chosen)

    def _read_group(self, group: int, columns: list[str]) -> Iterator[LabelRow]:
        about = self._file.metadata.row_group(group)
        sizes = (about.column(i) for i in range(about.num_columns))
        held = sum(
            one.total_uncompressed_size
            for one in sizes
            if one.path_in_schema.split(".")[0] in columns
        )
        rows = max(1, _BATCH_BYTES * about.num_rows // max(1, held))
        for batch in self._file.iter_batches(
            min(rows, _BATCH_ROWS), row_groups=[group], columns=columns
        ):
            yield from _read_batch(batch)


def _read_batch(batch: pa.RecordBatch) -> Iterator[LabelRow]:
    batch.validate(full=True)
    if MASK not in batch.schema.names:
        for fields in batch.to_pylist():
            yield LabelRow(fields=fields, mask=np.empty((0, 0), dtype=np.uint8))
        return
    masks = batch.column(MASK)
    if pa.types.is_struct(masks.type):
        masks = masks.field("bytes")
    rest = batch.drop_columns([MASK]).to_pylist()
    for fields, value in zip(rest, masks, strict=True):
        yield LabelRow(fields=fields, mask=_read_mask(fields, value.as_buffer()))


def _read_mask(fields: dict[str, Any], data: pa.Buffer | None) -> NDArray[np.uint8]:
    height, width = fields["height"], fields["width"]
    if data is None:
        raise ValueError(f"{fields['key']} has no mask")
    encoding = fields.get("mask_encoding", "raw")
    if encoding == "png":
        mask = decode_mask(data.to_pybytes())
    elif encoding == "raw":
        mask = np.frombuffer(data, dtype=np.uint8)
    else:
        raise ValueError(f"{fields['key']} has a mask of encoding {encoding!r}")
    if mask.size != height * width or mask.shape not in {(mask.size,), (height, width)}:
        raise ValueError(
            f"{fields['key']} is {height} x {width} px, its mask has {mask.size}"
        )
    return mask.reshape(height, width)


def fit_mask(row: LabelRow) -> NDArray[np.uint8]:
    """The mask at the size of its image, uint8 (H, W): each pixel the nearest one's."""
    height, width = row.size
    rows, cols = row.mask.shape
    if (rows, cols) == (height, width) or not row.mask.size:
        return row.mask
    # The middle of each pixel, in pixels of the mask.
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    across = (2 * np.arange(width) + 1) * cols // (2 * width)
    fitted: NDArray[np.uint8] = row.mask[down[:, None], across]
    return fitted


@contextlib.contextmanager
def _parquet_errors() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(" ".join(str(error).split())[:300]) from error
