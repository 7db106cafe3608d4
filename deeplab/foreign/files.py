"""Checkpoint files of other projects: one file to tensors by name.

Whatever wrote the file, no code of its own is run (``deeplab.foreign.pickles``), the
wrappers that trainers put around a state dict are taken off, and so is a prefix that
all of its keys share.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deeplab.foreign.pickles import read_pickle

if TYPE_CHECKING:
    from collections.abc import Iterable
    from os import PathLike

_WRAPPERS: Final = (
    "state_dict_ema",
    "model_ema",
    "state_dict",
    "model_state",
    "model_state_dict",
    "model",
    "net",
    "weights",
)
"""What trainers call the state dict in their files. The running average of the weights
comes first: it is what those who keep one evaluate."""

_PREFIXES: Final = ("module.", "model.", "_orig_mod.", "net.")
"""Of every key, where a trainer or a compiler wraps the network."""

_MODEL_GROUP: Final = "model_weights/"
"""Where Keras puts weights in the file of a whole model."""

_OBJECT_GRAPH: Final = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""A text that TensorFlow 2 puts among the variables."""

_ZIP_DAMAGE: Final = (
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy raises for an ``.npz`` that was cut or overwritten."""

_NPZ_LINES: Final = (
    "reader = tensorflow.train.load_checkpoint(PREFIX); numpy.savez('variables.npz', "
    "**{name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()})"
)


def read_checkpoint(path: str | PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of another project's checkpoint, by their own names.

    The ending says what the file is: ``.pt``, ``.pth``, ``.pth.tar``, ``.ckpt``,
    ``.bin``, ``.pkl`` (torch's, or Detectron2's pickle of arrays), ``.safetensors``,
    ``.npz`` (variables of TensorFlow's), ``.h5``, ``.hdf5`` (Keras; needs
    ``atrous[keras]``). The prefix of a TensorFlow checkpoint, its ``.index`` file or
    the folder that holds it needs ``atrous[tensorflow]``; without, write ``.npz``
    wherever tensorflow is, PREFIX being ``model.ckpt`` of ``model.ckpt.index``::

        import numpy, tensorflow
        reader = tensorflow.train.load_checkpoint(PREFIX)
        names = reader.get_variable_to_shape_map()
        numpy.savez("variables.npz", **{name: reader.get_tensor(name) for name in names})

    Returns:
        Tensors by name, on the CPU, without wrappers and shared prefixes. Of HDF5 the
        name is the path inside the file.

    Raises:
        ValueError: There is no such file, it is damaged or of another kind, it needs
            code to be run, it holds no state dict, or a package is missing that reads
            it.
    """
    path = Path(path)
    if prefix := _tensorflow_prefix(path):
        return _tensors(_read_tensorflow(prefix), path)
    if not path.is_file():
        kind = "a folder without a TensorFlow checkpoint" if path.is_dir() else "nothing"
        raise ValueError(
            f"checkpoint must be a file, got {kind} at {path}; check the path, or name "
            "the file in the folder"
        )
    name = path.name.lower()
    for ending, read in _READERS.items():
        if name.endswith(ending):
            return _tensors(read(path), path)
    raise ValueError(
        f"checkpoint must end in one of {', '.join(_READERS)}, or be the prefix of a "
        f"TensorFlow checkpoint, got {path.name}; rename the file to what it is"
    )


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, "safetensors", error) from error


def _read_npz(path: Path) -> object:
    try:
        if not zipfile.is_zipfile(path):  # which numpy would take for a pickle
            raise zipfile.BadZipFile("no zip file")
        # Opened here: what numpy opens stays open where the zip file is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except _ZIP_DAMAGE as error:
        raise _damaged(path, "arrays that numpy.savez wrote", error) from error


def _read_hdf5(path: Path) -> object:
    try:
        import h5py
    except ImportError as error:
        raise ValueError(
            f"{path.name} needs h5py, which is not installed; "
            "install it with pip install 'atrous[keras]'"
        ) from error
    found: dict[str, object] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name.removeprefix(_MODEL_GROUP)] = item[()]

    try:
        with h5py.File(path, "r") as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise _damaged(path, "HDF5", error) from error
    return found


_READERS: Final = {
    ".safetensors": _read_safetensors,
    ".npz": _read_npz,
    ".h5": _read_hdf5,
    ".hdf5": _read_hdf5,
    ".pth.tar": read_pickle,
    ".pth": read_pickle,
    ".pt": read_pickle,
    ".ckpt": read_pickle,
    ".bin": read_pickle,
    ".pkl": read_pickle,
}


def _damaged(path: Path, kind: str, error: Exception) -> ValueError:
    return ValueError(
        f"{path} must hold {kind}, got a file that cannot be read ({error}); it is "
        "damaged, cut short or of another kind: copy it again, or rename it"
    )


def _tensorflow_prefix(path: Path) -> Path | None:
    """Prefix of the one TensorFlow checkpoint that a path means, if it means one."""
    if path.is_dir():
        found = sorted(path.glob("*.index"))
        if len(found) > 1:
            raise ValueError(
                f"{path} must hold one TensorFlow checkpoint, got {len(found)}; name one "
                f"of them, such as {found[-1].with_suffix('')}"
            )
        return found[0].with_suffix("") if found else None
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def _read_tensorflow(prefix: Path) -> object:
    try:
        import tensorflow as tf  # type: ignore[import-untyped]
    except ImportError as error:
        raise ValueError(
            f"{prefix} is a TensorFlow checkpoint and needs tensorflow, which is not "
            "installed; install it with pip install 'atrous[tensorflow]', or write .npz "
            f"where it is, after import numpy, tensorflow: {_NPZ_LINES}"
        ) from error
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        return {
            name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()
        }
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise _damaged(prefix, "a TensorFlow checkpoint", error) from error


def _tensors(loaded: object, path: Path) -> dict[str, Tensor]:
    """The state dict in what a file holds, its values tensors."""
    state = _unwrap(loaded, path)
    arrays = {name: value for name, value in state.items() if name != _OBJECT_GRAPH}
    tensors = {name: _as_tensor(value) for name, value in arrays.items()}
    wrong = [str(name) for name, tensor in tensors.items() if tensor is None]
    wrong += [str(name) for name in tensors if not isinstance(name, str)]
    if wrong or not tensors:
        got = f"{wrong[0]} and {len(wrong) - 1} more" if wrong else "none"
        raise ValueError(
            f"{path} must hold tensors of numbers alone, got {got} that are not; save the "
            "network's state dict, without anything else in it"
        )
    return _without_prefix({name: t for name, t in tensors.items() if t is not None})


def _unwrap(loaded: object, path: Path) -> Mapping[Any, Any]:
    """Take off the wrappers of trainers, one in another."""
    while isinstance(loaded, Mapping) and (inner := _inner(loaded)) is not None:
        loaded = inner
    if isinstance(loaded, Mapping) and any(map(_is_array, loaded.values())):
        return loaded
    got = f"a {type(loaded).__name__}"
    if isinstance(loaded, Mapping):
        got += f" of {', '.join(sorted(map(str, loaded))[:5]) or 'nothing'}"
    raise ValueError(
        f"{path} must hold a state dict, bare or as one of {', '.join(_WRAPPERS)}, got "
        f"{got}; save the network's state_dict() instead"
    )


def _inner(loaded: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """The state dict that a trainer's dict wraps."""
    values = (loaded.get(name) for name in _WRAPPERS)
    return next((value for value in values if isinstance(value, Mapping)), None)


def _is_array(value: object) -> bool:
    return isinstance(value, Tensor | np.ndarray | np.generic)


def _as_tensor(value: object) -> Tensor | None:
    """A tensor of its own memory; None for what is no array of numbers."""
    if isinstance(value, Tensor):
        return value.detach()
    if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind not in "biuf":
        return None
    # torch knows the machine's own order of bytes alone.
    native = np.array(value, dtype=value.dtype.newbyteorder("="))
    return torch.from_numpy(native)


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    while prefix := _shared_prefix(state):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _shared_prefix(names: Iterable[str]) -> str | None:
    names = list(names)
    shared = (p for p in _PREFIXES if all(name.startswith(p) for name in names))
    return next(shared, None)
