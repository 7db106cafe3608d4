"""Pickled checkpoints, read without running code of theirs.

A pickle is a program: it may call whatever it names. torch's own files are read with
``weights_only=True``, which knows tensors and plain containers alone. Detectron2
publishes plain pickles of numpy arrays, and trainers save their best score as a number
of numpy's. For these, the few names that rebuild arrays lead to stand-ins of our own,
which take numbers from bytes and can do nothing else; any other name is refused.
"""

from __future__ import annotations

import pickle
import re
import struct
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal, Self

import numpy as np
import torch

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_STARTS: Final = (b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.")
"""How torch's files begin, since version 1.6 and before it."""

_KINDS: Final = "?bhilqBHILQefd"
"""Codes of numpy's truth values, whole numbers and fractions."""

_DAMAGE: Final = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
)
"""What a pickle that was cut or overwritten may raise, at whichever of its steps."""


class _Refused(pickle.UnpicklingError):
    """A pickle wants something called that is not among the stand-ins."""


class _Dtype:
    """Stands in for ``numpy.dtype``."""

    def __init__(self, code: str, *_: object) -> None:
        self.dtype = np.dtype(code)
        if self.dtype.char not in _KINDS:
            raise _Refused(f"numpy.dtype of {code!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])

    def read(self, raw: bytes | str) -> NDArray[Any]:
        """Numbers from bytes, which are a text in what Python 2 wrote."""
        data = raw.encode("latin1") if isinstance(raw, str) else raw
        return np.frombuffer(data, self.dtype)


class _Array:
    """Stands in for what makes an empty array, to be filled afterwards."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[Any] = np.empty(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        self.array = dtype.read(raw).reshape(shape, order="F" if is_fortran else "C")


class _Filled(_Array):
    """Stands in for what makes an array at once, in protocol 5."""

    def __init__(
        self, raw: bytes, dtype: _Dtype, shape: tuple[int, ...], order: Literal["C", "F"]
    ) -> None:
        self.array = dtype.read(raw).reshape(shape, order=order)


class _Scalar(float):
    """Stands in for what makes a single number."""

    def __new__(cls, dtype: _Dtype, raw: bytes | str) -> Self:
        return super().__new__(cls, dtype.read(raw)[0])

    def __setstate__(self, state: object) -> None:
        raise _Refused("a state of a number")


class _Bytes(bytes):
    """Stands in for ``_codecs.encode``, by which old protocols write bytes."""

    __slots__ = ()

    def __new__(cls, text: str = "", encoding: str = "latin1") -> Self:
        if encoding != "latin1":
            raise _Refused(f"_codecs.encode to {encoding!r}")
        return super().__new__(cls, text.encode("latin1"))

    def __setstate__(self, state: object) -> None:
        raise _Refused("a state of bytes")


_STAND_INS: Final[dict[str, type]] = {
    "__builtin__.bytes": _Bytes,  # none at all
    "_codecs.encode": _Bytes,
    "collections.OrderedDict": dict,
    "numpy.core.multiarray._reconstruct": _Array,
    "numpy.core.multiarray.scalar": _Scalar,
    "numpy.core.numeric._frombuffer": _Filled,
    "numpy._core.multiarray._reconstruct": _Array,  # since numpy 2
    "numpy._core.multiarray.scalar": _Scalar,
    "numpy._core.numeric._frombuffer": _Filled,
    "numpy.dtype": _Dtype,
    "numpy.ndarray": _Array,
}


class _Unpickler(pickle.Unpickler):
    """Knows plain containers and the stand-ins."""

    def find_class(self, module: str, name: str) -> type:
        """Give the stand-in, or refuse."""
        if stand_in := _STAND_INS.get(f"{module}.{name}"):
            return stand_in
        raise _Refused(f"{module}.{name}")


def read_pickle(path: Path) -> object:
    """Read what a file of torch's, or a plain pickle of numpy arrays, holds.

    Raises:
        ValueError: The file needs more than plain data, or is no such file.
    """
    try:
        with path.open("rb") as file:
            is_torch = file.read(max(map(len, _STARTS))).startswith(_STARTS)
            file.seek(0)
            loaded = _read_torch(file) if is_torch else _read_plain(file)
            return _unwrap_arrays(loaded)
    except _DAMAGE as error:
        if wanted := _wanted(error):
            raise ValueError(
                f"{path} must hold tensors in plain containers, got {wanted}, which may "
                "run code; in an environment that you trust, load it, take its state "
                "dict and save that alone: "
                "torch.save({k: v.cpu() for k, v in state_dict.items()}, 'plain.pt')"
            ) from error
        raise ValueError(
            f"{path} must be a checkpoint of torch.save or a pickle of numpy arrays, got "
            f"one that cannot be read ({type(error).__name__}); it is damaged, cut short, "
            "or of another kind: copy it again, or give it the ending of its kind"
        ) from error


def _read_torch(file: BinaryIO) -> object:
    names = [(kind, name) for name, kind in _STAND_INS.items() if "numpy" in name]
    with torch.serialization.safe_globals(names):  # type: ignore[arg-type]
        return torch.load(file, map_location="cpu", weights_only=True)


def _read_plain(file: BinaryIO) -> object:
    return _Unpickler(file, encoding="latin1").load()


def _unwrap_arrays(value: object) -> object:
    """Put arrays in the place of their stand-ins, in dicts within dicts."""
    if isinstance(value, dict):
        return {key: _unwrap_arrays(inner) for key, inner in value.items()}
    return value.array if isinstance(value, _Array) else value


def _wanted(error: Exception) -> str | None:
    """What a pickle wanted called, in words; None if that is not what went wrong."""
    if isinstance(error, _Refused):
        return str(error)
    text = str(error)
    if "TorchScript" in text:
        return "a TorchScript program"
    found = re.search(r"unsupported (?:global: )?GLOBAL (\S+)", text, re.IGNORECASE)
    return found[1] if found else None
