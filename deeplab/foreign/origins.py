"""Every origin there is, and which one a state dict comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from deeplab.foreign.detectron2 import DETECTRON2
from deeplab.foreign.hf import HF
from deeplab.foreign.jfzhang import JFZHANG
from deeplab.foreign.keras import KERAS
from deeplab.foreign.mmseg import MMSEG
from deeplab.foreign.origin import MismatchError
from deeplab.foreign.smp import SMP
from deeplab.foreign.tensorflow import TENSORFLOW
from deeplab.foreign.timm import TIMM
from deeplab.foreign.torchvision import TORCHVISION
from deeplab.foreign.unimatch import UNIMATCH
from deeplab.foreign.vainf import VAINF

if TYPE_CHECKING:
    from deeplab.foreign.origin import Origin, State

ORIGINS: Final = {
    origin.name: origin
    for origin in (
        TORCHVISION,
        SMP,
        VAINF,
        JFZHANG,
        MMSEG,
        UNIMATCH,
        DETECTRON2,
        TIMM,
        HF,
        TENSORFLOW,
        KERAS,
    )
}


def find_origin(name: str, state: State) -> Origin:
    """Give the origin of that name, or with ``auto`` the one whose keys these are.

    Raises:
        MismatchError: ``auto``, and the keys are nobody's.
        ValueError: There is no origin of that name.
    """
    if name != "auto":
        if name not in ORIGINS:
            raise ValueError(
                f"origin must be auto or one of {', '.join(ORIGINS)}, got {name!r}"
            )
        return ORIGINS[name]
    for origin in ORIGINS.values():
        if origin.recognises(state.keys()):
            return origin
    shown = ", ".join(sorted(state)[:3]) or "no key"
    raise MismatchError(
        f"keys must be those of one of {', '.join(ORIGINS)}, got {len(state)} keys such "
        f"as {shown}; name the origin if you know it, or the file is another network's"
    )
