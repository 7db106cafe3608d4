"""A network for other runtimes: ONNX, or a program of ``torch.export``.

It is exported in its inference form, for batches of one shape, and what was written
is run and held against the network itself before it counts as done. The bundle's
header goes along, since an exported network needs the same normalisation.

Shape letters: N batch, T tile, K classes.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from deeplab.bundle import METADATA_KEY, header_text
from deeplab.fold import fold

if TYPE_CHECKING:
    from os import PathLike

    from torch import Tensor, nn

    from deeplab.bundle import Bundle

TOLERANCE: Final = 1e-4
"""Greatest difference allowed, relative to the greatest logit."""

FORMATS: Final = (".onnx", ".pt2")
_NEEDS_ONNX: Final = ("onnx", "onnxruntime", "onnxscript")


class ExportError(ValueError):
    """A network cannot be exported, or gives other logits then."""


def export(
    model: nn.Module, bundle: Bundle, path: str | PathLike[str], *, batch: int = 1
) -> float:
    """Write a network for another runtime, and compare it with the original.

    Args:
        model: What ``deeplab.load`` gave.
        bundle: Its header.
        path: The file to write: ``.onnx``, or ``.pt2`` for a program of
            ``torch.export``. Input is ``image``, normalised float32 (N, bands, T, T);
            output is ``logits``, float32 (N, K, T, T). The header lies beside the
            weights under the key ``atrous``.
        batch: N.

    Returns:
        The greatest difference from the network, relative to the greatest logit.

    Raises:
        ValueError: ``path`` ends otherwise, or ``batch`` is below 1.
        ExportError: The difference is above 1e-4, a package is missing, or torch
            cannot write this network.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"file must end in {' or '.join(FORMATS)}, got {path.name!r}")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    model = model.eval()
    image = _noise(batch, len(bundle.bands), bundle.tile)
    write = _write_onnx if path.suffix == ".onnx" else _write_program
    with torch.no_grad():
        expected = model(image)
        given = write(fold(model), image, path, header_text(bundle))
    error = float((given - expected).abs().max() / expected.abs().max())
    if not error <= TOLERANCE:
        raise ExportError(
            f"logits of {path} must be within {TOLERANCE} of the network's, got {error:.1e}"
            "; please report this with the versions of torch, onnx and onnxruntime"
        )
    return error


def _noise(batch: int, bands: int, tile: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, bands, tile, tile, generator=generator)


def _write_program(model: nn.Module, image: Tensor, path: Path, header: str) -> Tensor:
    program = torch.export.export(model, (image,))
    torch.export.save(program, path, extra_files={METADATA_KEY: header})
    logits: Tensor = torch.export.load(path).module()(image)
    return logits


def _write_onnx(model: nn.Module, image: Tensor, path: Path, header: str) -> Tensor:
    missing = [name for name in _NEEDS_ONNX if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"ONNX needs {', '.join(missing)}, which is not installed; "
            "pip install 'atrous[onnx]'"
        )
    import onnxruntime

    try:
        program = torch.onnx.export(
            model,
            (image,),
            dynamo=True,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"torch {torch.__version__} cannot write this network as ONNX ({reason}); "
            "use a newer torch, or .pt2"
        ) from error
    assert program is not None  # noqa: S101 - given where no path is
    program.model.metadata_props[METADATA_KEY] = header
    program.save(path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
