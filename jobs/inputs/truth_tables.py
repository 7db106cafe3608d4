"""Masks in Parquet: those of a run of ours, or any table with a key and a mask a row.

Rows are found by their keys, of which 64 bits of a hash are kept: a table of ten million
masks takes 160 MB of each process that reads it. Row groups are read one at a time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import InputError, ItemError
from jobs.inputs.truth_decoding import decode_mask
from jobs.job import TrueMask
from jobs.outputs.png import decode_png
from jobs.storage import S3

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from jobs.shards import Item
    from jobs.spec import Limits
    from jobs.storage import Object, Store
    from jobs.truth_map import ClassMap

KEY_COLUMNS: Final = ("key", "uri", "image_id", "id", "file_name", "image_path", "path")
"""Of keys, in the order in which they are looked for."""

MASK_COLUMNS: Final = ("mask", "label", "annotation", "labels", "segmentation")

_RAW: Final = "raw"
_PNG: Final = "png"
_GROUPS_KEPT: Final = 4
_LARGEST: Final = 2**31
"""Bytes of a file that is not local, which is held as a whole."""

_HASH_BYTES: Final = 8


_Index = tuple["NDArray[np.uint64]", "NDArray[np.int64]"]
"""Hashes of keys, sorted, (n,); and of each the file, the row group and the row, (n, 3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One mask, as a table holds it."""

    data: bytes
    shape: tuple[int, int] | None
    """Of raw bytes; None where the data are an image file."""

    uri: str
    """The file that holds it."""

    etag: str


class Table:
    """One Parquet file of masks, or several in a folder. Safe to use from many threads."""

    def __init__(self, store: Store, where: str, column: str | None) -> None:
        """Read nothing yet.

        Args:
            store: Where it lies.
            where: A file, or a folder or prefix.
            column: Of masks; None for one with a usual name.
        """
        self._store, self._where, self._column = store, where, column
        self._lock = threading.Lock()
        self._files: list[Object] = []
        self._index: _Index | None = None
        self._failure: ItemError | None = None
        self._group = functools.lru_cache(maxsize=_GROUPS_KEPT)(self._read_group)
        self._open = functools.lru_cache(maxsize=1)(self._fetch)

    def find(self, key: str) -> Row:
        """The row of a key, or of a key that differs in its ending alone.

        Raises:
            ItemError: ``no_truth``; ``wrong_truth``: two rows have it; or the table cannot
                be read.
            StoreError: The store does not answer.
        """
        with self._lock:
            hashes, places = self._get_index()
            at = _hash(_stem(key))
            first, last = np.searchsorted(hashes, [at, at + np.uint64(1)])
            rows = [
                (place, row)
                for place in places[first:last].tolist()
                for row in [self._group(*place[:2]).slice(place[2], 1).to_pylist()[0]]
                if _stem(_text(row[_key_of(row)])) == _stem(key)
            ]
        exact = [one for one in rows if _text(one[1][_key_of(one[1])]) == key]
        rows = exact or rows
        if len(rows) != 1:
            code, text = (
                ("wrong_truth", "has more than one") if rows else ("no_truth", "has no")
            )
            raise ItemError(code, f"{self._where} {text} row for {key}; check --truth")
        place, row = rows[0]
        return self._to_row(self._files[place[0]], row)

    def _to_row(self, file: Object, row: dict[str, Any]) -> Row:
        value = row[self._mask_of(row)]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ItemError("wrong_truth", f"truth {file.uri}: the row holds no mask")
        shape: tuple[int, int] | None = None
        height, width = row.get("height"), row.get("width")
        if isinstance(height, int) and isinstance(width, int):
            shape = height, width
        encoding = row.get("mask_encoding")
        if encoding == _RAW and shape is None:
            text = f"truth {file.uri}: a raw mask needs its height and width"
            raise ItemError("wrong_truth", text)
        if encoding != _RAW:
            data, shape = _read_ours(data, shape if encoding == _PNG else None)
        return Row(data=data, shape=shape, uri=file.uri, etag=file.etag)

    def _mask_of(self, names: Iterable[str]) -> str:
        names = list(names)
        wanted = MASK_COLUMNS if self._column is None else (self._column,)
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise ItemError(
                "wrong_truth",
                f"{self._where} has no column {' or '.join(wanted)}, it has "
                f"{', '.join(names)}; name the one of masks with -c truth_column=NAME",
            )
        return found

    def _get_index(self) -> _Index:
        """The index; a table that has none is not read for each image again."""
        if self._failure is not None:
            raise ItemError(self._failure.code, self._failure.message)
        if self._index is None:
            try:
                self._index = self._read_index()
            except ItemError as error:
                self._failure = error
                raise
        return self._index

    def _read_index(self) -> _Index:
        found = self._store.find(self._where)
        self._files = [one for one in found if one.uri.lower().endswith(".parquet")]
        if not self._files:
            raise ItemError("no_truth", f"no Parquet file at {self._where}; check --truth")
        hashes: list[NDArray[np.uint64]] = []
        places: list[NDArray[np.int64]] = []
        for number in range(len(self._files)):
            for group, keys in self._keys(number):
                hashes.append(np.array([_hash(_stem(key)) for key in keys], np.uint64))
                place = np.empty((len(keys), 3), dtype=np.int64)
                place[:, :2], place[:, 2] = (number, group), np.arange(len(keys))
                places.append(place)
        if not hashes:
            return np.empty(0, np.uint64), np.empty((0, 3), np.int64)
        flat, rows = np.concatenate(hashes), np.concatenate(places)
        order = np.argsort(flat, kind="stable")
        return flat[order], rows[order]

    def _keys(self, number: int) -> Iterator[tuple[int, list[str]]]:
        with _explained(self._files[number].uri):
            file = self._open(number)
            column = _key_of(file.schema_arrow.names)
            self._mask_of(file.schema_arrow.names)
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=[column])
                yield group, [_text(one) for one in table.column(0).to_pylist()]

    def _read_group(self, number: int, group: int) -> pa.Table:
        with _explained(self._files[number].uri):
            file = self._open(number)
            names = file.schema_arrow.names
            size = ("height", "width", "mask_encoding")
            columns = [_key_of(names), self._mask_of(names)]
            columns += [name for name in size if name in names]
            return file.read_row_group(group, columns=columns)

    def _fetch(self, number: int) -> pq.ParquetFile:
        one = self._files[number]
        if one.uri.startswith(S3):
            if one.size > _LARGEST:
                raise ItemError(
                    "too_large",
                    f"truth {one.uri} has {one.size} bytes, a table on S3 may have "
                    f"{_LARGEST}; cut it in parts",
                )
            data = self._store.read(one.uri, etag=one.etag)
            return pq.ParquetFile(pa.BufferReader(data))
        if self._store.stat(one.uri).etag != one.etag:
            raise ItemError("input_changed", f"truth {one.uri} changed meanwhile")
        return pq.ParquetFile(one.uri, memory_map=True)


class TableTruths:
    """The masks of a table, one for each image."""

    def __init__(self, table: Table, lookup: ClassMap, limits: Limits) -> None:
        """Read nothing yet."""
        self._table, self._lookup, self._limits = table, lookup, limits

    def wants(self, item: Item) -> bool:  # noqa: ARG002 - as the others ask
        """All of them."""
        return True

    def expected(self) -> frozenset[str]:
        """None in particular."""
        return frozenset()

    def read(self, item: Item) -> TrueMask:
        """The mask of the row that has the item's key.

        Raises:
            ItemError: ``no_truth``, or what is wrong with it.
            StoreError: The store does not answer.
        """
        row = self._table.find(item.key)
        try:
            ids = self._decode(row)
        except ItemError as error:
            text = f"truth {row.uri}, row of {item.key}: {error.message}"
            raise ItemError(error.code, text) from error
        return TrueMask(ids=ids, uri=row.uri, etag=row.etag)

    def _decode(self, row: Row) -> NDArray[np.uint8]:
        if row.shape is None:
            return decode_mask(row.data, self._lookup, self._limits)
        flat = np.frombuffer(row.data, dtype=np.uint8)
        if min(row.shape) < 1 or flat.size != row.shape[0] * row.shape[1]:
            height, width = row.shape
            text = f"{flat.size} bytes are no mask of {width} x {height} px"
            raise ItemError("wrong_truth", text)
        return self._lookup.of_ids(flat.reshape(row.shape))


def _read_ours(
    data: bytes, shape: tuple[int, int] | None
) -> tuple[bytes, tuple[int, int] | None]:
    """Ids of a PNG that a label run wrote, whatever its palette; others as they are."""
    if shape is not None:
        with contextlib.suppress(ValueError):
            return decode_png(data, *shape).tobytes(), shape
    return data, None


def _key_of(names: Iterable[str]) -> str:
    names = list(names)
    found = next((name for name in KEY_COLUMNS if name in names), None)
    if found is None:
        raise ItemError(
            "wrong_truth",
            f"a table of masks needs a column {' or '.join(KEY_COLUMNS)}, it has "
            f"{', '.join(names)}",
        )
    return found


def _stem(key: str) -> str:
    """A key without its ending: masks are called as images, but for that."""
    return key.removesuffix(PurePosixPath(key).suffix)


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


def _hash(text: str) -> np.uint64:
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=_HASH_BYTES)
    # One less than the largest, so that there is always a next one.
    return np.uint64(min(int.from_bytes(digest.digest()), 2**64 - 2))


@contextlib.contextmanager
def _explained(uri: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:300]
        raise ItemError("undecodable", f"truth {uri}: {text}") from error


def check_table(store: Store, where: str) -> None:
    """Refuse a table that is not there.

    Raises:
        InputError: It holds no Parquet file.
    """
    if not any(one.uri.lower().endswith(".parquet") for one in store.iterate(where)):
        raise InputError(f"no Parquet file at {where}; check --truth")
