"""A bundle: one file that holds a network and all there is to know to use it.

It is a safetensors file whose metadata has one key, ``atrous``, holding JSON:
architecture, classes and their colours, bands, normalisation, tile size and a
digest. This module reads that header and needs no torch; ``deeplab.weights``
reads and writes the tensors.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from safetensors import SafetensorError, safe_open

from deeplab.tiles import MAX_TILE, Tiling
from deeplab.variant import Network, Variant, parse_variant

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from os import PathLike

    import numpy as np
    from numpy.typing import NDArray

FORMAT_VERSION: Final = 2
METADATA_KEY: Final = "atrous"
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
"""Tensors that are measured in training, not learnt."""

_DTYPES: Final = ("F16", "F32", "I64")
"""Of tensors, as safetensors calls them."""
MAX_CLASSES: Final = 254
"""Ids 0 to 253; 254 is "ignore" and 255 is nodata."""

_LONGEST_HEADER: Final = 2**20
"""Letters; with 254 classes it has 20 thousand."""

_LONGEST_REASON: Final = 500
"""Letters; a reason holds what a stranger's header holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassInfo:
    """One class that a network tells apart."""

    name: str
    """For people, e.g. ``building``; unique in a bundle."""

    color: tuple[int, int, int]
    """Red, green and blue, 0 to 255."""

    def __post_init__(self) -> None:
        """Check the fields."""
        if not isinstance(self.name, str) or not self.name:
            raise ValueError(f"class name must be a word, got {self.name!r}")
        if len(self.color) != 3 or not all(_is_int(part, 0, 255) for part in self.color):  # noqa: PLR2004
            raise ValueError(
                f"color of class {self.name!r} must be three numbers of 0 to 255, "
                f"got {self.color!r}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What a bundle's header says."""

    architecture: str
    """A name that ``deeplab.build`` knows."""

    output_stride: int = 16
    """Image pixels per cell of the encoder's last map: 8, 16 or 32."""

    atrous_rates: tuple[int, ...] | None = None
    """The pyramid's rates; None for those that belong to the output stride."""

    variant: Variant | None = None
    """The choices that the weights were trained under; None for the
    architecture's own."""

    classes: tuple[ClassInfo, ...]
    """1 to 254 classes; a class's id is its position."""

    bands: tuple[str, ...]
    """Names of the image's bands in order, e.g. ``red``, ``green``, ``blue``."""

    mean: tuple[float, ...]
    """Per band, in units of pixel / 255; taken off before ``std`` divides."""

    std: tuple[float, ...]
    """Per band, in units of pixel / 255, above zero."""

    tile: int = 512
    """Rows and columns that the network sees at once."""

    overlap: int = 128
    """Pixels that neighbouring tiles share: 0 to half a tile."""

    origin: str = "atrous"
    """The project whose code trained the weights."""

    digest: str = ""
    """SHA-256 over header and tensors, 64 hex digits; empty until saved."""

    def __post_init__(self) -> None:
        """Check the fields."""
        names = (self.architecture, self.origin)
        if not all(isinstance(name, str) and name for name in names):
            raise ValueError(
                "architecture and origin must be names, "
                f"got {self.architecture!r} and {self.origin!r}"
            )
        self._check_classes()
        self._check_bands()
        self._check_tiles()
        _ = self.network  # which checks the rest

    @property
    def network(self) -> Network:
        """All that fixes the network but its weights.

        Raises:
            ValueError: The header describes none that this version can build.
        """
        return Network(
            architecture=self.architecture,
            classes=len(self.classes),
            bands=len(self.bands),
            output_stride=self.output_stride,
            atrous_rates=self.atrous_rates,
            variant=self.variant,
        )

    @property
    def tiling(self) -> Tiling:
        """How rasters are cut and blended where nothing else is asked for."""
        return Tiling(tile=self.tile, overlap=self.overlap)

    def _check_classes(self) -> None:
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(
                f"a bundle has 1 to {MAX_CLASSES} classes, got {len(self.classes)}; "
                "ids 254 and 255 are taken by ignore and nodata"
            )
        names = [info.name for info in self.classes]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"class names must differ, got {twice!r} twice")

    def _check_bands(self) -> None:
        if not self.bands or not all(isinstance(band, str) for band in self.bands):
            raise ValueError(f"bands must be one name or more, got {self.bands!r}")
        if not len(self.bands) == len(self.mean) == len(self.std):
            raise ValueError(
                f"mean and std need one number for each of {len(self.bands)} bands, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        if not all(_is_finite(value) for value in (*self.mean, *self.std)):
            raise ValueError(f"mean and std must be finite, got {self.mean}, {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be above zero, got {self.std}")

    def _check_tiles(self) -> None:
        if not _is_int(self.tile, 1, MAX_TILE):
            raise ValueError(f"tile must be 1 to {MAX_TILE} px, got {self.tile!r}")
        if not _is_int(self.overlap, 0, self.tile // 2):
            raise ValueError(
                f"overlap must be 0 to half a tile ({self.tile // 2} px), "
                f"got {self.overlap!r}"
            )


def read_bundle(path: str | PathLike[str]) -> Bundle:
    """Read a bundle's header; the tensors are neither read nor checked.

    Args:
        path: A local file.

    Returns:
        The header, its fields checked. That the digest is true is checked when
        the tensors are loaded.

    Raises:
        ValueError: The file is no bundle, or one this version cannot read.
        OSError: The file cannot be opened.
    """
    with _open_whole(path) as file:
        metadata = file.metadata() or {}
    if METADATA_KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but no bundle: its metadata has no "
            f"{METADATA_KEY!r}; save it with deeplab.weights.save_bundle"
        )
    try:
        return _parse(metadata[METADATA_KEY])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        text = str(error)[:_LONGEST_REASON]
        raise ValueError(f"{path} has a header that cannot be used: {text}") from error


def read_tensors(
    path: str | PathLike[str], bundle: Bundle
) -> dict[str, NDArray[np.generic]]:
    """Read a bundle's tensors and hold them against its digest.

    Raises:
        ValueError: The file's content is not what its header says.
    """
    tensors = {}
    with _open_whole(path) as file:
        for name in file.keys():  # noqa: SIM118
            dtype = file.get_slice(name).get_dtype()
            # Whether numpy knows bfloat16 depends on what else was imported.
            if dtype not in _DTYPES:
                raise ValueError(
                    f"{path} holds tensors that cannot be read: {name} must be one of "
                    f"{', '.join(_DTYPES)}, got {dtype}; save it with "
                    "deeplab.weights.save_bundle"
                )
            tensors[name] = file.get_tensor(name)
    digest = compute_digest(bundle, tensors)
    if digest != bundle.digest:
        raise ValueError(
            f"{path} is damaged: its content has digest {digest[:16]}, its header says "
            f"{bundle.digest[:16]}; copy the bundle again"
        )
    return tensors


def count_parameters(path: str | PathLike[str]) -> int:
    """Count a bundle's learnt numbers; no tensor is read.

    Raises:
        ValueError: The file is no whole safetensors file.
    """
    with _open_whole(path) as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return sum(
        math.prod(shape) for name, shape in shapes.items() if not name.endswith(_STATISTICS)
    )


@contextmanager
def _open_whole(path: str | PathLike[str]) -> Iterator[Any]:  # safetensors has no types
    """Open a safetensors file; what is wrong with it as such is a ValueError."""
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); copy the bundle again"
        ) from error


def header_text(bundle: Bundle) -> str:
    """Write a bundle's header as canonical JSON: one text for one content."""
    header = {"format_version": FORMAT_VERSION, **dataclasses.asdict(bundle)}
    return json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)


def compute_digest(bundle: Bundle, tensors: Mapping[str, NDArray[np.generic]]) -> str:
    """SHA-256 over the header without its digest, and over every tensor.

    Of a tensor its name, dtype, shape and little-endian bytes count.
    """
    sha = hashlib.sha256(header_text(dataclasses.replace(bundle, digest="")).encode())
    for name, tensor in sorted(tensors.items()):
        little = tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False)
        sha.update(json.dumps([name, little.dtype.str, little.shape]).encode())
        sha.update(little.tobytes())
    return sha.hexdigest()


def _parse(text: str) -> Bundle:
    if len(text) > _LONGEST_HEADER:
        raise ValueError(f"it must have at most {_LONGEST_HEADER} letters, got {len(text)}")
    header: dict[str, Any] = json.loads(text)
    if not isinstance(header, dict):
        raise TypeError(f"it must be a JSON object, got {text[:40]!r}")
    version = header.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"format_version must be {FORMAT_VERSION}, got {version!r}; "
            "use the version of atrous that wrote it, or a newer one"
        )
    fields = {field.name for field in dataclasses.fields(Bundle)}
    if header.keys() != fields:
        wrong = ", ".join(sorted(header.keys() ^ fields))
        raise ValueError(f"fields are missing or unknown: {wrong}")
    for name in ("bands", "mean", "std", "atrous_rates"):
        header[name] = _as_tuple(name, header[name])
    header["variant"] = header["variant"] and parse_variant(header["variant"])
    header["classes"] = tuple(_parse_class(info) for info in header["classes"])
    return Bundle(**header)


def _parse_class(info: dict[str, Any]) -> ClassInfo:
    return ClassInfo(name=info["name"], color=_as_tuple("color", info["color"]))


def _as_tuple(name: str, value: object) -> Any:  # noqa: ANN401
    if value is not None and not isinstance(value, list):
        raise TypeError(f"{name} must be a list, got {value!r}")
    return None if value is None else tuple(value)


def _is_int(value: object, low: int, high: int | None = None) -> bool:
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return low <= value and (high is None or value <= high)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
