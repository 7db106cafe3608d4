"""Ids of a truth that need two bytes, as two planes of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from jobs.errors import ItemError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIDE: Final = 2**16
_BYTE: Final = 256


def split_wide(ids: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Ids of 16 bits as high and low bytes.

    Raises:
        ItemError: ``unsupported``: an id has more.
    """
    if ids.dtype.kind not in "iu":
        raise ItemError("unsupported", f"ids are whole numbers, got {ids.dtype}")
    whole = ids.astype(np.int64)
    if whole.min() < 0 or whole.max() >= _WIDE:
        raise ItemError(
            "unsupported",
            f"ids are 0 to {_WIDE - 1}, got {whole.min()} to {whole.max()}",
        )
    return np.stack([whole // _BYTE, whole % _BYTE]).astype(np.uint8)
