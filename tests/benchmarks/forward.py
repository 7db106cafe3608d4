"""Tiles a second of the bare network, in several arithmetics and layouts."""

import contextlib
import copy
import importlib.util
import time
from dataclasses import asdict, dataclass

import torch
from measure import spread
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to compute the same network."""

    name: str
    precision: str
    """``fp32``: exact; ``tf32``: torch's own default on a GPU; ``bf16``: autocast."""

    channels_last: bool = False
    compiled: bool = False
    as_segmenter: bool = False
    """Deterministic kernels, not tuned: how the segmenter sets cuDNN."""


VARIANTS = (
    Variant(name="eager fp32", precision="fp32"),
    Variant(name="eager tf32", precision="tf32"),
    Variant(name="bf16 channels_last", precision="bf16", channels_last=True),
    Variant(
        name="same, cuDNN as in the segmenter",
        precision="bf16",
        channels_last=True,
        as_segmenter=True,
    ),
    Variant(
        name="bf16 channels_last compiled",
        precision="bf16",
        channels_last=True,
        compiled=True,
    ),
)


def measure_forward(model, variant, *, batch, sizes, device):
    """Tiles a second of one variant at one batch size.

    Returns:
        Figures for JSON, with ``skipped`` in their place where there are none.
    """
    asked = {"variant": asdict(variant), "batch": batch}
    backend = _backend(device) if variant.compiled else "eager"
    if backend is None:
        return {**asked, "skipped": "triton is not installed, so torch cannot compile"}
    forget_peak(device)
    try:
        call, warm_up_s = _prepare(model, variant, backend, _input(batch, sizes, device))
        seconds = time_calls(call, device, repeats=sizes.repeats, inner=sizes.inner)
    except torch.cuda.OutOfMemoryError:
        return {**asked, "skipped": "out of GPU memory"}
    rate = [batch / one for one in seconds]
    return {
        **asked,
        "compiler": backend if variant.compiled else None,
        "warm_up_s": round(warm_up_s, 2),
        "tiles_s": asdict(spread(rate)),
        "tflop_s": spread(rate).median * sizes.tile_flop / 1e12,
        "peak_memory_mib": peak_memory_mib(device),
    }


def count_flop(model, tile):
    """Floating point operations of one tile, two for each multiply-add."""
    x = torch.zeros(1, 3, tile, tile, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    return counter.get_total_flops()


def time_calls(call, device, *, repeats, inner):
    """Seconds of a call, once for each repeat of ``inner`` calls in a row."""
    seconds = []
    for _ in range(repeats):
        if device == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(inner):
                call()
            end.record()
            end.synchronize()
            seconds.append(begin.elapsed_time(end) / 1000 / inner)
        else:
            start = time.perf_counter()
            for _ in range(inner):
                call()
            seconds.append((time.perf_counter() - start) / inner)
    return seconds


def peak_memory_mib(device):
    """Most memory that tensors took since ``forget_peak``; None on a CPU."""
    if device != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated() / 2**20, 1)


def forget_peak(device):
    """Start to measure memory anew."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _backend(device):
    """A compiler; on a CPU one that only traces, so that a smoke run is short."""
    if device != "cuda":
        return "eager"
    return "inductor" if importlib.util.find_spec("triton") is not None else None


def _input(batch, sizes, device):
    # Random numbers: zeros run faster on some GPUs.
    return torch.randn(batch, 3, sizes.tile, sizes.tile, device=device)


def _prepare(model, variant, backend, x):
    """A function that runs the network once, warm already, and how long that took."""
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    own = copy.deepcopy(model).to(memory_format=layout)
    x = x.to(memory_format=layout)
    network = (
        torch.compile(own, dynamic=False, backend=backend) if variant.compiled else own
    )

    def call():
        with torch.inference_mode(), _settings(variant, x.device.type):
            return network(x)

    start = time.perf_counter()
    for _ in range(3):
        call()
    if x.device.type == "cuda":
        torch.cuda.synchronize()
    return call, time.perf_counter() - start


@contextlib.contextmanager
def _settings(variant, device):
    with (
        torch.backends.cudnn.flags(
            enabled=True,
            benchmark=not variant.as_segmenter,
            deterministic=variant.as_segmenter,
            allow_tf32=variant.precision == "tf32",
        ),
        torch.autocast(device, torch.bfloat16, enabled=variant.precision == "bf16"),
    ):
        yield
