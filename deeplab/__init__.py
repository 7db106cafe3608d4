"""DeepLabV3+ in PyTorch: networks, their bundle files, and tiled segmentation.

``deeplab.models()`` lists the networks, ``deeplab.build(name, classes=...)`` makes
one, ``deeplab.load(path)`` reads one from a bundle, ``deeplab.profile(model)`` says
what it costs. They are imported when first used: torch takes seconds to import, and
reading a bundle's header or planning tiles does not need it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deeplab.cost import profile
    from deeplab.model import build, models
    from deeplab.weights import load_model as load

__all__ = ["build", "load", "models", "profile"]

_HOMES = {
    "build": ("deeplab.model", "build"),
    "load": ("deeplab.weights", "load_model"),
    "models": ("deeplab.model", "models"),
    "profile": ("deeplab.cost", "profile"),
}


def __getattr__(name: str) -> object:
    """Import an export when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value: object = getattr(import_module(module), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the exports, imported or not."""
    return sorted({*globals(), *__all__})
