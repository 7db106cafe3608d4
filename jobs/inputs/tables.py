"""The images of a Parquet file as items: a row each, from a column of bytes.

Planning reads footers. A replica reads one column of its row groups as a stream, so
that no row group is in memory as a whole. Hugging Face keeps an image as a struct of
its bytes and the name that its file had.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import AtrousError, InputError, ItemError
from jobs.inputs.indexes import COLUMNS
from jobs.inputs.tars import refuse
from jobs.shards import Item, Part
from jobs.storage import changed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.spec import Pick
    from jobs.storage import Store

TABLE: Final = ".parquet"

NAMES: Final = (
    "image",
    "img",
    "picture",
    "photo",
    "jpg",
    "jpeg",
    "png",
    "webp",
    "image_bytes",
    "bytes",
    "data",
    "content",
)
"""Where images are looked for, whatever the case."""

_SHAPES: Final = {"geometry", "geom", "wkb"}
_ROWS: Final = 16
_BATCH_BYTES: Final = 16 * 2**20
"""Of rows in memory at a time, at most so many and about so large, but one at least."""

_BUFFER: Final = 4 * 2**20
_TAIL: Final = 2**16
_ERRORS: Final = (
    pa.ArrowException,
    OSError,
    ValueError,
    LookupError,
    EOFError,
    OverflowError,
)
"""What pyarrow raises on damaged files."""


class RangeFile(io.RawIOBase):
    """An object of a store as a file that is read in parts."""

    def __init__(self, store: Store, uri: str, size: int, etag: str) -> None:
        """Read nothing yet."""
        super().__init__()
        self._store, self._uri, self._size, self._etag = store, uri, size, etag
        self._at = 0
        self._tail: bytes | None = None
        self.failure: Exception | None = None
        """What the store raised last, which pyarrow may tell in other words."""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go elsewhere."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes; fewer where the object ends."""
        left = max(self._size - self._at, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        try:
            data = self._read(wanted)
        except AtrousError as error:
            self.failure = error
            raise
        self._at += len(data)
        return data

    def _read(self, size: int) -> bytes:
        start = max(self._size - _TAIL, 0)
        if self._at < start:
            return self._store.read_part(self._uri, self._at, size, etag=self._etag)
        if self._tail is None:
            # A footer is read in three steps, all of them at the end.
            rest = self._size - start
            self._tail = self._store.read_part(self._uri, start, rest, etag=self._etag)
        return self._tail[self._at - start :][:size]


def is_table(store: Store, item: Item, pick: Pick) -> bool:
    """Whether a Parquet file holds images itself, and no locations.

    Raises:
        InputError: It may hold them in several columns.
    """
    if PurePosixPath(item.uri).suffix.lower() != TABLE:
        return False
    try:
        with _open(store, item) as file:
            return _choose(file.schema_arrow, item.uri, pick) is not None
    except ItemError:
        return False


def find_rows(store: Store, table: Item, pick: Pick) -> Iterator[Item]:
    """The rows of a Parquet file; none of one that holds no images.

    Args:
        store: Where it lies.
        table: The file itself.
        pick: Names the column, if the user does.

    Raises:
        InputError: Several columns may be meant.
        StoreError: The store does not answer.
    """
    try:
        with _open(store, table) as file:
            column = _choose(file.schema_arrow, table.uri, pick)
            if column is None and pick.column is not None:
                names = ", ".join(file.schema_arrow.names[:50])
                raise InputError(
                    f"{table.uri} has no column {pick.column} of bytes, it has {names}; "
                    "name one of images with -c source_column=NAME"
                )
            groups = [] if column is None else _measure(file.metadata, column)
    except ItemError as error:
        yield refuse(table, 0, error.code, error.message)
        return
    row = 0
    for group, (rows, size) in enumerate(groups):
        for at in range(rows):
            name = f"{row:09d}"
            part = Part(of=table.uri, at=at, group=group, column=column or "")
            yield Item(
                uri=f"{table.uri}#{name}",
                key=f"{table.key}/{name}",
                size=size,
                etag=table.etag,
                part=part,
            )
            row += 1


def _measure(metadata: pq.FileMetaData, column: str) -> list[tuple[int, int]]:
    """Rows of each row group, and bytes of a row on average."""
    schema = metadata.schema
    paths = [schema.column(number).path for number in range(len(schema))]
    places = [n for n, path in enumerate(paths) if path in {column, f"{column}.bytes"}]
    found = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        size = sum(group.column(place).total_compressed_size for place in places)
        found.append((group.num_rows, max(size // max(group.num_rows, 1), 1)))
    return found


def read_rows(
    store: Store, part: Part, etag: str
) -> Iterator[tuple[bytes | None, str | None]]:
    """The images of a row group, and the names that their files had, in order.

    Args:
        store: Where the file lies.
        part: Any row of the group.
        etag: What the file must still be.

    Raises:
        ItemError: ``undecodable`` from a damaged place on; or as the store says.
        StoreError: The store does not answer.
    """
    found = store.stat(part.of)
    if found.etag != etag:
        raise changed(part.of)
    item = Item(uri=part.of, key="", size=found.size, etag=etag)
    with _open(store, item) as file:
        fields = _leaves(file.schema_arrow, part.column)
        groups = [part.group]
        batches = file.iter_batches(
            batch_size=_fitting(file.metadata.row_group(part.group), fields),
            row_groups=groups,
            columns=fields,
            use_threads=False,
        )
        for batch in batches:
            for value in batch.column(0):
                yield _split(value.as_py())


def _fitting(group: pq.RowGroupMetaData, fields: list[str]) -> int:
    """How many rows of a row group to hold at a time."""
    chunks = (group.column(number) for number in range(group.num_columns))
    size: int = sum(
        one.total_uncompressed_size for one in chunks if one.path_in_schema in fields
    )
    rows: int = group.num_rows
    return max(1, min(_ROWS, _BATCH_BYTES * rows // max(1, size)))


def _leaves(schema: pa.Schema, column: str) -> list[str]:
    kind = schema.field(column).type
    if not pa.types.is_struct(kind):
        return [column]
    names = [field.name for field in kind]
    return [f"{column}.{name}" for name in ("bytes", "path") if name in names]


def _split(value: Any) -> tuple[bytes | None, str | None]:  # noqa: ANN401 - as a row holds it
    if isinstance(value, dict):
        path = value.get("path")
        return value.get("bytes"), path if isinstance(path, str) else None
    return value, None


@contextlib.contextmanager
def _open(store: Store, item: Item) -> Iterator[pq.ParquetFile]:
    """A Parquet file; what is wrong with it, here or while it is used, is an ItemError."""
    source = RangeFile(store, item.uri, item.size, item.etag)
    try:
        with pq.ParquetFile(source, buffer_size=_BUFFER, pre_buffer=False) as file:
            yield file
    except _ERRORS as error:
        if source.failure is not None:
            raise source.failure from error
        reason = " ".join(str(error).split())[:200]
        raise ItemError("undecodable", f"{item.uri} is damaged: {reason}") from error


def _choose(schema: pa.Schema, uri: str, pick: Pick) -> str | None:
    """The column that holds images; None where none does."""
    held: list[str] = [field.name for field in schema if _is_bytes(field.type)]
    twice = next((name for name in held if schema.names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{uri} has more than one column {twice}; rename all but one")
    if pick.column is not None:
        return pick.column if pick.column in held else None
    for wanted in NAMES:
        for name in held:
            if name.lower() == wanted:
                return name
    texts = {field.name.lower() for field in schema if not _is_bytes(field.type)}
    others = [name for name in held if name.lower() not in _SHAPES]
    if texts & {*COLUMNS, "assets"} or not others:
        return None
    if len(others) == 1:
        return others[0]
    raise InputError(
        f"{uri} holds bytes in {', '.join(others[:50])}; name the column of images with "
        "-c source_column=NAME"
    )


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _is_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
