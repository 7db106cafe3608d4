"""From another project's checkpoint file to a bundle file."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import torch

from deeplab.bundle import Bundle
from deeplab.choices import changed_choices
from deeplab.classes import number_classes
from deeplab.foreign.convert import convert
from deeplab.foreign.files import read_checkpoint
from deeplab.foreign.origin import MismatchError
from deeplab.foreign.origins import ORIGINS, find_origin
from deeplab.model import build_network
from deeplab.weights import save_bundle

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from deeplab.bundle import ClassInfo
    from deeplab.foreign.convert import Converted
    from deeplab.foreign.origin import Origin, State

_RGB: Final = ("red", "green", "blue")
_TILE: Final = 512
_ALIGNED_TILE: Final = 513
"""With corners aligned, cells fall on pixels where a side is a multiple of the output
stride plus one; this is one for 8, 16 and 32."""

_OVERLAP: Final = 128
_DTYPES: Final = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What a checkpoint does not say, or says otherwise. None is the origin's own."""

    origin: str = "auto"
    """Name of the origin; ``auto`` finds it by the keys."""

    output_stride: int | None = None
    atrous_rates: tuple[int, ...] | None = None

    choices: Mapping[str, object] = field(default_factory=dict)
    """Fields of ``Variant``."""

    classes: tuple[ClassInfo, ...] | None = None
    """None numbers them."""

    untrained_head: bool = False
    """Accept an encoder alone; ``classes`` then says how many there are."""

    bands: tuple[str, ...] | None = None
    """None for red, green and blue, or ``band 1`` and so on where not three."""

    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    """Mean and standard deviation per band, in units of pixel / 255."""

    tile: int | None = None
    overlap: int | None = None

    dtype: Literal["float32", "float16"] = "float32"
    """Of the kernels. With float32 the logits are the origin's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What was imported, and what became of each of the checkpoint's tensors."""

    bundle: Bundle
    """The header as it was written."""

    choices: dict[str, object]
    """The variant's fields that are not the architecture's own."""

    tensors: int
    """In the bundle."""

    unused: dict[str, str]
    """The checkpoint's keys that are not needed, with the reason."""

    untrained: tuple[str, ...]
    """Our keys that were drawn at random."""


def import_checkpoint(
    source: str | PathLike[str], target: str | PathLike[str], options: ImportOptions
) -> ImportReport:
    """Read another project's checkpoint and write it as a bundle.

    Args:
        source: The checkpoint file.
        target: The bundle to write; an old one is replaced.
        options: What the checkpoint does not say.

    Raises:
        MismatchError: The checkpoint is not, whole, what the options say.
        ValueError: It cannot be read, or an option is out of range.
        OSError: A file cannot be read or written.
    """
    state = read_checkpoint(source)
    given = options.classes
    converted = convert(
        state,
        _find_origin(options.origin, state),
        output_stride=options.output_stride,
        atrous_rates=options.atrous_rates,
        classes=len(given) if given is not None and options.untrained_head else None,
        untrained_head=options.untrained_head,
        overrides=options.choices,
    )
    bundle = make_header(converted, options)
    model = build_network(converted.network)
    model.load_state_dict(converted.tensors)
    digest = save_bundle(target, model, bundle, dtype=_DTYPES[options.dtype])
    return ImportReport(
        bundle=dataclasses.replace(bundle, digest=digest),
        choices=changed_choices(converted.network),
        tensors=len(converted.tensors),
        unused=converted.unused,
        untrained=converted.untrained,
    )


def _find_origin(name: str, state: State) -> Origin:
    """Find an origin, and refuse the keys of another one that knows them."""
    origin = find_origin(name, state)
    keys = state.keys()
    others = [one.name for one in ORIGINS.values() if one.recognises(keys)]
    if others and origin.name not in others:
        raise MismatchError(
            f"the checkpoint's keys must be those of {origin.name}, got those of "
            f"{' or '.join(others)}; name that origin, or none"
        )
    return origin


def make_header(converted: Converted, options: ImportOptions) -> Bundle:
    """Describe converted weights as a bundle does.

    Raises:
        ValueError: Classes, bands or normalisation are not as many as there must be.
    """
    network = converted.network
    classes = options.classes or number_classes(network.classes)
    if len(classes) != network.classes:
        raise MismatchError(
            f"the checkpoint has {network.classes} classes, the list given has "
            f"{len(classes)}; give the list that it was trained with"
        )
    bands = _name_bands(network.bands, options.bands)
    mean, std = options.normalisation or _spread(converted, len(bands))
    tile = options.tile
    if tile is None:
        tile = _ALIGNED_TILE if network.choices.align_corners else _TILE
    overlap = min(_OVERLAP, tile // 2) if options.overlap is None else options.overlap
    return Bundle(
        architecture=network.architecture,
        output_stride=network.output_stride,
        atrous_rates=network.atrous_rates,
        variant=network.choices,
        classes=classes,
        bands=bands,
        mean=mean,
        std=std,
        tile=tile,
        overlap=overlap,
        origin=converted.origin,
    )


def _name_bands(count: int, names: tuple[str, ...] | None) -> tuple[str, ...]:
    if names is None:
        numbered = tuple(f"band {i}" for i in range(1, count + 1))
        return _RGB if count == len(_RGB) else numbered
    if len(names) != count:
        raise MismatchError(
            f"the checkpoint has {count} bands, got {len(names)} names: {', '.join(names)}"
        )
    return names


def _spread(converted: Converted, count: int) -> tuple[tuple[float, ...], ...]:
    """The origin's mean and standard deviation, for as many bands as there are."""
    own = converted.preprocessing
    if len(own.mean) == count:
        return own.mean, own.std
    if len({*own.mean}) == len({*own.std}) == 1:  # of no band in particular
        return own.mean[:1] * count, own.std[:1] * count
    raise MismatchError(
        f"{converted.origin} normalises {len(own.mean)} bands, the checkpoint has {count}; "
        "give the normalisation of each, its mean and its standard deviation"
    )
