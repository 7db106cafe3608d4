"""Pixels of any type as the network takes them: uint8, and which of them are data.

The network sees bytes. Bands of uint8 are passed on as they are; of any other type,
or with a scale and offset, a value is first brought to what it means and then from
the run's range to 0..255, clipped. A palette is expanded to red, green and blue.

A pixel is data where neither the mask of the file nor its alpha band says otherwise,
where any of the bands that are read differs from nodata, and where all of them hold
finite numbers. GDAL's own ``dataset_mask`` asks every band of the file for nodata, so
that a pixel would count which has data in none of the bands that matter here; and it
knows alpha in files of two or four bands alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from rasterio.windows import Window as GdalWindow

from jobs.errors import ItemError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from rasterio.io import DatasetReader

    from jobs.spec import Reading

DTYPES: Final = (
    *("uint8", "int8", "uint16", "int16", "uint32", "int32"),
    *("float32", "float64"),
)

BYTES: Final = (0.0, 255.0)

_COLORS: Final = 3
_VALUES_AT_ONCE: Final = 2**23
_HINT: Final = "choose others with -c bands=N,N,..."


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What is read of a raster, and what it means."""

    bands: tuple[int, ...]
    """Of the file, from 1."""

    channels: tuple[int, ...] = ()
    """Columns of ``colors``, one for each band of the result."""

    colors: NDArray[np.uint8] | None = None
    """(indices, 4), RGBA of a palette; None where there is none."""

    scales: tuple[tuple[float, float], ...] = ()
    """Scale and offset of each band; empty where bytes are kept as they are."""

    value_range: tuple[float, float] = BYTES

    @property
    def count(self) -> int:
        """Bands of the result."""
        return len(self.channels or self.bands)


class Header(Protocol):
    """What must be known of a raster, whatever it is read with."""

    @property
    def colorinterp(self) -> tuple[Any, ...]:
        """Whose ``name`` says what a band is, e.g. ``alpha``."""
        ...

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Of each band."""
        ...

    @property
    def scales(self) -> tuple[float, ...]:
        """Of each band, 1 where there is none."""
        ...

    @property
    def offsets(self) -> tuple[float, ...]:
        """Of each band, 0 where there is none."""
        ...


def choose(raster: Header, wanted: int, reading: Reading) -> Choice:
    """Find out how to make bytes of a raster.

    Args:
        raster: Open for reading.
        wanted: Bands that the bundle needs.
        reading: What the user says.

    Raises:
        ItemError: ``unsupported``: it cannot be done, with what to do about it.
    """
    kinds = [kind.name for kind in raster.colorinterp]
    if kinds[0] == "palette":
        return _choose_colors(raster, wanted, reading)
    data = [number for number, kind in enumerate(kinds, 1) if kind != "alpha"]
    dtype = raster.dtypes[0]
    if reading.bands is None and len(data) < wanted:
        text = f"the raster has {_count(len(data))} of {dtype}; the bundle needs {wanted}"
        raise _unsupported(f"{text}; say which to take, e.g. -c bands=1,1,1")
    bands = reading.bands or tuple(data[:wanted])
    _check_bands(bands, kinds)
    types = sorted({raster.dtypes[band - 1] for band in bands})
    if len(types) > 1 or types[0] not in DTYPES:
        text = f"its bands are {' and '.join(types)}; they must be of one type, among"
        raise _unsupported(f"{text} {', '.join(DTYPES)}; {_HINT}")
    scales = tuple((raster.scales[band - 1], raster.offsets[band - 1]) for band in bands)
    return _scaled(bands, types[0], scales, reading)


def read_pixels(
    raster: DatasetReader,
    window: tuple[int, int, int, int],
    choice: Choice,
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> None:
    """Read a window: row, column, height, width.

    Args:
        raster: Open for reading.
        window: Inside the raster.
        choice: What to make of it.
        pixels: (bands, H, W) to be filled.
        valid: (H, W) to be filled.
    """
    row, col, height, width = window
    for start, stop in _strips(raster, row, row + height, width * len(choice.bands)):
        part = slice(start - row, stop - row)
        box = GdalWindow(col, start, width, stop - start)
        valid[part] = _read_mask(raster, choice.bands, box)
        # Of one type: numpy reads a band twice where it stands twice.
        raw = raster.read(list(choice.bands), window=box)
        to_bytes(raw, choice, pixels[:, part], valid[part])


def alpha_of(raster: Header) -> int:
    """Number of the band that is alpha; 0 where none is."""
    kinds = [kind.name for kind in raster.colorinterp]
    return len(kinds) - kinds[::-1].index("alpha") if "alpha" in kinds else 0


def to_bytes(
    raw: NDArray[Any],
    choice: Choice,
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> None:
    """Fill pixels with what values mean, and forget those that are no numbers.

    Args:
        raw: (bands, H, W) as the file holds them.
        choice: What to make of it.
        pixels: uint8 (bands, H, W) to be filled.
        valid: (H, W); what is no data becomes False.
    """
    if choice.colors is not None:
        _expand(raw[0], choice, pixels, valid)
    elif not choice.scales:
        pixels[...] = raw
    else:
        for band, scale, out in zip(raw, choice.scales, pixels, strict=True):
            _stretch(band, scale, choice.value_range, out, valid)


def _choose_colors(raster: Any, wanted: int, reading: Reading) -> Choice:  # noqa: ANN401
    """A palette counts as three bands of bytes, of which bands may be chosen."""
    if wanted != _COLORS:
        text = f"the raster has a palette, which makes 3 bands; the bundle needs {wanted}"
        raise _unsupported(text)
    bands = reading.bands or (1, 2, 3)
    _check_bands(bands, ["red", "green", "blue"])
    dtype = raster.dtypes[0]
    if dtype not in {"uint8", "uint16"}:
        raise _unsupported(f"its palette has indices of {dtype}, not of uint8 or uint16")
    colors = np.zeros((np.iinfo(dtype).max + 1, 4), dtype=np.uint8)
    for index, color in raster.colormap(1).items():
        if index < len(colors):
            colors[index] = color
    return Choice(bands=(1,), channels=tuple(band - 1 for band in bands), colors=colors)


def _check_bands(bands: tuple[int, ...], kinds: list[str]) -> None:
    for band in bands:
        if band > len(kinds):
            text = f"the raster has {_count(len(kinds))}, there is no band {band}"
        elif kinds[band - 1] == "alpha":
            text = f"band {band} is alpha, which says where there is data"
        elif kinds[band - 1] == "palette":
            text = f"band {band} has a palette, which is expanded as the first band alone"
        else:
            continue
        raise _unsupported(f"{text}; {_HINT}")


def _scaled(
    bands: tuple[int, ...],
    dtype: str,
    scales: tuple[tuple[float, float], ...],
    reading: Reading,
) -> Choice:
    is_plain = all(pair == (1.0, 0.0) for pair in scales)
    if dtype == "uint8" and is_plain and reading.value_range in {None, BYTES}:
        return Choice(bands=bands)
    if not all(math.isfinite(number) for pair in scales for number in pair):
        raise _unsupported(f"its scales and offsets are no numbers: {scales}")
    if reading.value_range is None:
        about = dtype if is_plain else f"{dtype} with scale and offset"
        raise _unsupported(
            f"its bands are {about}; say which values are black and white with "
            "-c value_range=LOW,HIGH"
        )
    return Choice(bands=bands, scales=scales, value_range=reading.value_range)


def _read_mask(
    raster: DatasetReader, bands: tuple[int, ...], box: GdalWindow
) -> NDArray[np.bool_]:
    """Where any of the bands has data, bool (H, W)."""
    names = {flag.name for band in bands for flag in raster.mask_flag_enums[band - 1]}
    # One for all bands need not be read for each.
    chosen = bands[:1] if "nodata" not in names else tuple(sorted(set(bands)))
    found: NDArray[np.bool_] = raster.read_masks(list(chosen), window=box).any(axis=0)
    alpha = alpha_of(raster)
    if alpha and "alpha" not in names:
        found &= raster.read(alpha, window=box) > 0
    return found


def _expand(
    indices: NDArray[Any],
    choice: Choice,
    pixels: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> None:
    colors = choice.colors
    if colors is None:
        raise ValueError("there is no palette to expand")
    for channel, out in zip(choice.channels, pixels, strict=True):
        np.take(colors[:, channel], indices, out=out)
    valid &= colors[:, 3][indices] != 0


def _stretch(
    raw: NDArray[Any],
    scale: tuple[float, float],
    value_range: tuple[float, float],
    out: NDArray[np.uint8],
    valid: NDArray[np.bool_],
) -> None:
    """Bring one band to 0..255."""
    (factor, offset), (low, high) = scale, value_range
    with np.errstate(over="ignore", invalid="ignore"):
        values = raw.astype(np.float64)
        values *= factor
        values += offset
        finite = np.isfinite(values)
        valid &= finite
        values -= low
        values /= high - low
        values *= BYTES[1]
    np.rint(values, out=values)
    np.clip(values, *BYTES, out=values)
    values[~finite] = 0
    out[...] = values


def _strips(
    raster: DatasetReader, first: int, last: int, values_a_row: int
) -> Iterator[tuple[int, int]]:
    """Rows to be read at once: whole blocks of the file, so that none is read twice."""
    block = raster.block_shapes[0][0]
    rows = max(_VALUES_AT_ONCE // values_a_row // block, 1) * block
    while first < last:
        stop = min((first // rows + 1) * rows, last)
        yield first, stop
        first = stop


def _count(bands: int) -> str:
    return f"{bands} band{'' if bands == 1 else 's'}"


def _unsupported(text: str) -> ItemError:
    return ItemError("unsupported", text)
