"""Do with less where the device's memory is too small."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


def with_less_memory(compute: Callable[[int], Value], batch: int) -> Value:
    """Call ``compute(batch)``, halving the batch as long as memory runs out.

    Raises:
        MemoryError: It ran out with a batch of one.
    """
    while True:
        try:
            return compute(batch)
        except RuntimeError as error:
            if not _is_want_of_memory(error):
                raise
            text = " ".join(str(error).split())[:200]
        # Tensors hang on the error's frames, which a future holds in a circle.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if batch == 1:
            raise MemoryError(f"the device cannot hold one tile: {text}")
        batch //= 2


def _is_want_of_memory(error: RuntimeError) -> bool:
    # On a CPU torch raises a plain RuntimeError, which names its allocator.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate" in str(error)
