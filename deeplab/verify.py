"""Whether a bundle is what its header says, and computes.

A bundle may be damaged on its way, or hold weights that training had already ruined.
Both are found before a job starts: digest, names and shapes, then every weight, then
one forward pass at the size that jobs use.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from deeplab.weights import load_model

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor

    from deeplab.bundle import Bundle
    from deeplab.model import DeepLab, Linear

_SHOWN = 3


class DifferenceError(ValueError):
    """A bundle does not hold what its header says, or cannot be computed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was looked at, and found to be right."""

    digest: str
    """Of the header and every tensor, 64 hex digits."""

    tensors: int
    """All of them finite, with the names and shapes of the header's network."""

    classes: int
    """Of which the logits are, finite at every cell."""

    tile: int
    """Rows and columns of the image that they are of."""

    notes: tuple[str, ...]
    """What is no error but worth knowing, e.g. that a rate exceeds the tile."""


def check_bundle(path: str | PathLike[str]) -> Verified:
    """Check all that there is to check of a bundle.

    Args:
        path: A local file whose header ``read_bundle`` can read.

    Raises:
        DifferenceError: It is not what its header says.
        OSError: The file cannot be opened.
    """
    try:
        model, bundle = load_model(path)
    except ValueError as error:
        raise DifferenceError(str(error)) from error
    state = model.state_dict()
    _check_weights(state, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logits = _classify(model, bundle)
    if logits.shape[1] != len(bundle.classes) or not bool(logits.isfinite().all()):
        raise DifferenceError(
            f"{path} must give finite logits of {len(bundle.classes)} classes, got "
            f"{logits.shape[1]}, or inf or NaN among them; import or train it again"
        )
    return Verified(
        digest=bundle.digest,
        tensors=len(state),
        classes=logits.shape[1],
        tile=bundle.tile,
        notes=tuple(dict.fromkeys(str(one.message) for one in caught)),
    )


def _check_weights(state: dict[str, Tensor], path: str | PathLike[str]) -> None:
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise DifferenceError(
            f"{path} must hold finite weights, got inf or NaN in "
            f"{', '.join(bad[:_SHOWN])}{more}; import or train it again"
        )


def _classify(model: DeepLab | Linear, bundle: Bundle) -> Tensor:
    """Logits (1, K, h, w) of a tile of noise, the same noise each time.

    Before they are enlarged, which adds nothing and, for a stranger's tile and number
    of classes, may take more memory than there is.
    """
    size = (1, len(bundle.bands), bundle.tile, bundle.tile)
    pixels = torch.rand(size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(one).view(1, -1, 1, 1) for one in (bundle.mean, bundle.std))
    image = (pixels - mean) / std
    with torch.inference_mode():
        return model.classify(image)
