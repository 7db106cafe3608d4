"""Copies between the host and a device that neither of them waits for.

A plain copy from or to pageable memory makes the host wait until the device has
done all that it was told before, and so the device wait for the host's next words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from numpy.typing import NDArray
    from torch import Tensor


def empty_on_host(
    shape: Sequence[int], device: torch.device, dtype: torch.dtype = torch.uint8
) -> Tensor:
    """Memory of the host that the device reads and writes by itself.

    torch gives it to nobody else before a copy that was begun has ended.
    """
    return torch.empty(tuple(shape), dtype=dtype, pin_memory=device.type == "cuda")


def to_device(host: Tensor, device: torch.device) -> Tensor:
    """Begin to copy to the device; what it is told next comes after that."""
    return host.to(device, non_blocking=True)


class Landing:
    """Tensors of a device on their way to the host."""

    def __init__(self, *tensors: Tensor) -> None:
        """Begin to copy them."""
        device = tensors[0].device
        self._event = torch.Event(device) if device.type == "cuda" else None
        self._hosts = tensors
        if self._event is not None:
            self._hosts = tuple(_begin(tensor) for tensor in tensors)
            self._event.record()

    def wait(self) -> list[NDArray[Any]]:
        """Arrays of the host, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return [host.numpy() for host in self._hosts]


def _begin(tensor: Tensor) -> Tensor:
    host = empty_on_host(tensor.shape, tensor.device, tensor.dtype)
    return host.copy_(tensor, non_blocking=True)
