"""Read an index: a file that names inputs and is none itself.

STAC ItemCollections and Items, other GeoJSON, Parquet (stac-geoparquet and GeoParquet
are), CSV, JSON lines, and lists with one location a line. Which it is, its name says.

An index is not trusted. What it names lies in S3, or, where the index itself is a
local file, on this machine; a row that leads elsewhere stops the plan. A row is never
passed over, and never guessed: where it names several things, the user chooses.
"""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import InputError
from jobs.mosaic import write_time
from jobs.redact import redact
from jobs.storage import S3, WEB, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from jobs.spec import Pick

COLUMNS: Final = ("uri", "url", "href", "location", "path")
"""Where a row's location is looked for, whatever the case."""

MAX_BYTES: Final = 256 * 2**20
"""Of the rows of a Parquet file that are in memory at a time."""

MAX_JSON_BYTES: Final = 64 * 2**20
"""Of one JSON document, which takes ten times as much in memory."""

MAX_LINE: Final = 16 * 2**20
"""Letters of a line of text."""

MAX_ROWS: Final = 5_000_000
"""Of an index that is asked for times, which are all held."""

MAX_LETTERS: Final = 4096
"""Of a location; a key in S3 has 1024 bytes at most."""

_ROWS: Final = 4096
"""Of a Parquet file, in memory at a time."""

_ASSET_FIELDS: Final = ("href", "roles", "type")
_TIME: Final = "datetime"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")

Row = tuple[str, Any, Any]
"""Which row it is, for people, the location that it holds, if it is text, and what it
says of when that was taken."""


def is_index(location: str) -> bool:
    """Whether a file is an index, by its name."""
    return PurePosixPath(location).suffix.lower() in _FORMS


def max_bytes(location: str) -> int | None:
    """Bytes that an index of its form may have; None for any."""
    whole = PurePosixPath(location).suffix.lower() in {".json", ".geojson"}
    return MAX_JSON_BYTES if whole else None


def read_index(
    location: str, file: BinaryIO, pick: Pick, *, allow_http: bool = False
) -> Iterator[str]:
    """The locations that an index names, as they come; some may come twice.

    Args:
        location: Where the index lies; relative ones are below its folder.
        file: Its bytes.
        pick: What of a row to take.
        allow_http: Whether it may name addresses of the web.

    Raises:
        InputError: It cannot be read, or a row leads nowhere or where it must not.
    """
    for where, value, _ in _read_rows(location, file, pick):
        yield _locate(where, value, location, allow_http=allow_http)


def read_dates(location: str, file: BinaryIO, pick: Pick) -> dict[str, str]:
    """When what an index names was taken, by location, as ISO 8601 in UTC.

    That is the property ``datetime`` of an Item, or the column of that name. A row
    without one is left out; of two of one location the later time counts.

    Args:
        location: Where the index lies.
        file: Its bytes.
        pick: What of a row to take.

    Raises:
        InputError: As in ``read_index``, or it has too many rows.
    """
    found: dict[str, str] = {}
    for count, (where, value, said) in enumerate(_read_rows(location, file, pick), 1):
        if count > MAX_ROWS:
            raise InputError(f"{location} has more than {MAX_ROWS} rows; cut it in parts")
        uri, time = _locate(where, value, location), _read_time(said)
        if time:
            found[uri] = max(time, found.get(uri, ""))
    return found


def _read_time(said: object) -> str:
    try:
        if isinstance(said, str):
            said = datetime.fromisoformat(said.strip())
        return write_time(said) if isinstance(said, datetime) else ""
    except (ValueError, OverflowError):
        return ""


def _read_rows(location: str, file: BinaryIO, pick: Pick) -> Iterator[Row]:
    read = _FORMS[PurePosixPath(location).suffix.lower()]
    try:
        yield from read(location, file, pick)
    except (OSError, ValueError, csv.Error, RecursionError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:300]
        form = PurePosixPath(location).suffix
        raise InputError(
            f"{location} is no {form} file that can be read: {reason}"
        ) from error


def _locate(where: str, value: object, index: str, *, allow_http: bool = False) -> str:
    """The absolute location of a row."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} names nothing; give it a location or take it out")
    if len(value) > MAX_LETTERS or not value.isprintable():
        raise InputError(
            f"{where} is no location, got {redact(value[:200])!r}; allowed are "
            f"{MAX_LETTERS} letters that can be printed"
        )
    if allow_http and value.startswith(WEB):
        return resolve(value, allow_http=True)
    return _locate_stored(where, value, index)


def _locate_stored(where: str, value: str, index: str) -> str:
    shown = redact(value[:200])
    if value.startswith("/vsi"):
        raise InputError(
            f"{where} is {shown}, which is a name for GDAL alone; write a path or "
            "s3://bucket/key"
        )
    if value.startswith(S3):
        return _inside(where, *value.removeprefix(S3).partition("/")[::2])
    if _SCHEME.match(value):
        web = ", or let label fetch it, with -c allow_http=true"
        raise InputError(
            f"{where} is {shown}; an index may name s3://bucket/key and paths, so copy "
            f"what it names there{web if value.startswith(WEB) else ''}"
        )
    if not index.startswith(S3):
        return os.path.normpath(os.path.join(os.path.dirname(index), value))  # noqa: PTH118, PTH120 - an odd name is none
    if value.startswith("/"):
        raise InputError(
            f"{where} is {shown}, a local path in an index that lies in S3; write "
            "s3://bucket/key, or a path from the index's folder"
        )
    bucket, _, key = index.removeprefix(S3).partition("/")
    place = posixpath.normpath(posixpath.join(posixpath.dirname(key), value))
    return _inside(where, bucket, place)


def _inside(where: str, bucket: str, key: str) -> str:
    if not bucket or not key or key.split("/", 1)[0] in {".", ".."}:
        raise InputError(f"{where} is no object of a bucket; write s3://bucket/key")
    return resolve(f"{S3}{bucket}/{key}")


# What of a row is the location


def _choose_column(names: Iterable[str], where: str, pick: Pick) -> str:
    held = list(names)
    shown = ", ".join(held[:50]) or "none"
    if pick.column is not None:
        if pick.column in held:
            return pick.column
        raise InputError(
            f"{where} has no column {pick.column}, it has {shown}; name one of them with "
            "-c source_column=NAME"
        )
    for wanted in COLUMNS:
        for name in held:
            if name.lower() == wanted:
                return name
    if len(held) == 1:
        return held[0]
    raise InputError(
        f"{where} has no column {', '.join(COLUMNS[:-1])} or {COLUMNS[-1]}, it has "
        f"{shown}; name one of them with -c source_column=NAME"
    )


def _choose_asset(assets: Mapping[str, Any], where: str, pick: Pick) -> object:
    """The href of the asset that holds the pixels."""
    held = {name: one for name, one in assets.items() if isinstance(one, dict)}
    shown = ", ".join(list(held)[:50]) or "none"
    if pick.asset is not None:
        if pick.asset in held:
            return held[pick.asset].get("href")
        raise InputError(
            f"{where} has no asset {pick.asset}, it has {shown}; name one of them with "
            "-c asset=NAME"
        )
    data = [name for name, one in held.items() if "data" in (one.get("roles") or ())]
    tiffs = [
        name
        for name in data or held
        if str(held[name].get("type")).startswith("image/tiff")
    ]
    for fitting in (data, tiffs, list(held)):
        if len(fitting) == 1:
            return held[fitting[0]].get("href")
    raise InputError(
        f"{where} has not one asset of role data or type image/tiff, it has {shown}; name "
        "one of them with -c asset=NAME"
    )


def _read_object(where: str, row: object, pick: Pick) -> Row:
    """A row of JSON: a location, an Item, a feature, or an object with columns."""
    if isinstance(row, str):
        return where, row, None
    if not isinstance(row, dict):
        raise InputError(f"{where} must be text or an object, got {type(row).__name__}")
    assets = row.get("assets")
    properties = row.get("properties") if row.get("type") == "Feature" else None
    columns = properties if isinstance(properties, dict) else row
    if isinstance(assets, dict) and pick.column is None:
        return where, _choose_asset(assets, where, pick), columns.get(_TIME)
    return where, columns[_choose_column(columns, where, pick)], columns.get(_TIME)


# Forms


def _read_json(location: str, file: BinaryIO, pick: Pick) -> Iterator[Row]:
    document = json.load(file)
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "Feature":
        yield _read_object(f"row 1 of {location}", document, pick)
        return
    rows = document.get("features") if kind == "FeatureCollection" else document
    if not isinstance(rows, list):
        raise InputError(
            f"{location} must be a STAC ItemCollection or Item, GeoJSON or a list, got "
            f"{kind or type(document).__name__}; of a Collection give its Items"
        )
    for number, row in enumerate(rows, 1):
        yield _read_object(f"row {number} of {location}", row, pick)


def _read_lines(location: str, file: BinaryIO, pick: Pick) -> Iterator[Row]:
    for where, line, _ in _read_text(location, file, pick):
        yield _read_object(where, json.loads(line), pick)


def _read_text(location: str, file: BinaryIO, _pick: Pick) -> Iterator[Row]:
    for number, line in enumerate(_lines(file), 1):
        if text := line.strip():
            yield f"row {number} of {location}", text, None


def _read_csv(location: str, file: BinaryIO, pick: Pick) -> Iterator[Row]:
    rows = csv.DictReader(_lines(file), strict=True)
    column = _choose_column(rows.fieldnames or (), location, pick)
    for number, row in enumerate(rows, 2):
        yield f"row {number} of {location}", row[column], row.get(_TIME)


def _lines(file: BinaryIO) -> Iterator[str]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        while line := text.readline(MAX_LINE):
            if len(line) == MAX_LINE:
                raise ValueError(f"it has a line of more than {MAX_LINE} letters")
            yield line
    finally:
        text.detach()  # who opened the file closes it


def _read_parquet(location: str, file: BinaryIO, pick: Pick) -> Iterator[Row]:
    with pq.ParquetFile(file) as table:
        schema = table.schema_arrow
        assets = schema.field("assets").type if "assets" in schema.names else None
        times = (
            [_TIME] if _TIME in schema.names and _is_time(schema.field(_TIME).type) else []
        )
        if pick.column is None and assets is not None and pa.types.is_struct(assets):
            columns = _asset_columns(assets, location, pick) + times
            for where, row in _batches(location, table, columns):
                yield where, _choose_asset(row["assets"] or {}, where, pick), row.get(_TIME)
            return
        column = _choose_column(schema.names, location, pick)
        if not _is_text(schema.field(column).type):
            raise InputError(
                f"column {column} of {location} must hold text, got "
                f"{str(schema.field(column).type)[:100]}; name another one with "
                "-c source_column=NAME"
            )
        for where, row in _batches(location, table, [column, *times]):
            yield where, row[column], row.get(_TIME)


def _asset_columns(assets: pa.StructType, location: str, pick: Pick) -> list[str]:
    names = [field.name for field in assets]
    if pick.asset is not None:
        _choose_asset({name: {} for name in names}, location, pick)
        names = [pick.asset]
    return [f"assets.{name}.{field}" for name in names for field in _ASSET_FIELDS]


def _batches(
    location: str, file: pq.ParquetFile, columns: list[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=columns):
        if batch.nbytes > MAX_BYTES:
            raise InputError(f"{location} holds more than locations; give an index of them")
        for row in batch.to_pylist():
            number += 1
            yield f"row {number} of {location}", row


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_timestamp(kind) or _is_text(kind))


_FORMS: Final[dict[str, Callable[[str, BinaryIO, Pick], Iterator[Row]]]] = {
    ".json": _read_json,
    ".geojson": _read_json,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".csv": _read_csv,
    ".txt": _read_text,
    ".parquet": _read_parquet,
    ".geoparquet": _read_parquet,
}
"""How an index is read, by the end of its name."""
