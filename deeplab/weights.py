"""Bundles with their tensors: save a network, load it again.

Only safetensors is read and written, never a pickle: a bundle from a stranger
can be wrong but cannot run code. The same network and header give the same
bytes.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import save

from deeplab.bundle import (
    METADATA_KEY,
    compute_digest,
    header_text,
    read_bundle,
    read_tensors,
)
from deeplab.model import build_network

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from deeplab.bundle import Bundle
    from deeplab.model import DeepLab, Linear


def save_bundle(
    path: str | PathLike[str],
    model: nn.Module,
    bundle: Bundle,
    *,
    dtype: torch.dtype = torch.float16,
) -> str:
    """Write a network and its header as one file; an old one is replaced.

    Args:
        path: The file to write; it appears whole or not at all.
        model: What ``deeplab.build`` made from the header's fields.
        bundle: The header; its digest is computed anew.
        dtype: Of the kernels, float16 or float32. Biases and the statistics of
            batch normalisation stay float32: they are few and may be large.

    Returns:
        The bundle's digest, 64 hex digits.

    Raises:
        ValueError: The network does not fit the header, a weight is not finite
            in ``dtype``, or ``dtype`` is another one.
    """
    if dtype not in (torch.float16, torch.float32):
        raise ValueError(f"dtype must be torch.float16 or torch.float32, got {dtype}")
    state = model.state_dict()
    _check_fit(state, bundle)
    arrays = {name: _to_array(name, tensor, dtype) for name, tensor in state.items()}
    # What is the architecture's own variant today may change; the weights' may not.
    bundle = dataclasses.replace(bundle, variant=bundle.network.choices)
    digest = compute_digest(bundle, arrays)
    header = header_text(dataclasses.replace(bundle, digest=digest))
    _write(Path(path), save(arrays, metadata={METADATA_KEY: header}))
    return digest


def load_model(path: str | PathLike[str]) -> tuple[DeepLab | Linear, Bundle]:
    """Load a bundle: the network in float32 and evaluation mode, on the CPU.

    Args:
        path: A local file.

    Returns:
        The network and its header.

    Raises:
        ValueError: The file is no bundle, its content does not match its
            digest, or its tensors do not fit its header.
        OSError: The file cannot be opened.
    """
    bundle = read_bundle(path)
    arrays = read_tensors(path, bundle)
    state = {name: _to_tensor(array) for name, array in arrays.items()}
    _check_fit(state, bundle)
    model = _build_empty(bundle)
    model.load_state_dict(state, assign=True)
    return model.eval(), bundle


def _build_empty(bundle: Bundle) -> DeepLab | Linear:
    """Build the header's network without memory for its weights."""
    with torch.device("meta"):
        return build_network(bundle.network)


def _check_fit(state: dict[str, Tensor], bundle: Bundle) -> None:
    """Compare names and shapes with those of the header's network."""
    given = {name: tuple(tensor.shape) for name, tensor in state.items()}
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in _build_empty(bundle).state_dict().items()
    }
    for name in sorted(given.keys() | wanted.keys()):
        if given.get(name) != wanted.get(name):
            raise ValueError(
                f"tensors do not fit {bundle.architecture} with {len(bundle.classes)} "
                f"classes and {len(bundle.bands)} bands: {name} must have shape "
                f"{wanted.get(name)}, got {given.get(name)}"
            )


def _to_array(name: str, tensor: Tensor, dtype: torch.dtype) -> NDArray[np.generic]:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(dtype if tensor.ndim > 1 else torch.float32)
        if not bool(tensor.isfinite().all()):
            raise ValueError(
                f"weights must be finite in {tensor.dtype}, got {name} with inf or NaN"
            )
    array: NDArray[np.generic] = np.ascontiguousarray(tensor.numpy())
    return array.reshape(tuple(tensor.shape))


def _to_tensor(array: NDArray[np.generic]) -> Tensor:
    is_float = np.issubdtype(array.dtype, np.floating)
    return torch.tensor(array, dtype=torch.float32 if is_float else None)


def _write(path: Path, content: bytes) -> None:
    """Write under another name first, so that no half file bears the name."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)
