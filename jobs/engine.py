"""Where a run's replicas live: in Ray actors, or in this process."""

from __future__ import annotations

import contextlib
import functools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from cluster.local import run_local
from jobs.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jobs.runner import Engine
    from jobs.spec import Device

# glibc gives each thread an arena of its own, which keeps what a block has freed:
# two arenas take 80 MiB less at the peak.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where to compute, as asked for. None of it changes results but the device."""

    local: bool = False
    """In this process, without Ray."""

    address: str | None = None
    """Of a Ray cluster; None starts one on this machine."""

    replicas: int | None = None
    """None means as many as there is room for."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: int = 1
    """CPUs that each replica takes."""

    patience_s: float = 900.0
    """How long the cluster may be down."""

    capacity_timeout_s: float = 300.0
    """How long to wait for room for a replica."""

    allow_unauthenticated: bool = False
    """Join a remote cluster that asks nobody for a token."""

    def __post_init__(self) -> None:
        """Check the limits."""
        for name, value in (("threads", self.threads), ("replicas", self.replicas)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if self.local and self.replicas not in {None, 1}:
            raise InputError(f"--local has one replica, got --replicas {self.replicas}")


@contextlib.contextmanager
def open_engine(place: Place) -> Iterator[tuple[Engine, Device]]:
    """Connect, and hold the connection for a block of code.

    Yields:
        What runs a worker over items, and the device that replicas will use.

    Raises:
        InputError: There is no such cluster, it lets anybody in, or it has no GPU but
            one is wanted.
    """
    if place.local:
        engine = functools.partial(run_local, patience_s=place.patience_s)
        yield engine, _local_device(place)
        return
    from cluster.connect import connect
    from cluster.pool import Size, run_pool

    cpus = max(os.cpu_count() or 1, (place.replicas or 1) * place.threads)
    with contextlib.ExitStack() as stack:
        try:
            resources = stack.enter_context(
                connect(
                    place.address,
                    cpus=cpus,
                    allow_unauthenticated=place.allow_unauthenticated,
                )
            )
        except PermissionError as error:
            raise InputError(f"{error} with -c allow_unauthenticated=true") from error
        except OSError as error:
            raise InputError(
                f"no Ray cluster answers at {place.address}: {error}; start one with "
                "'ray start --head', or leave --address out"
            ) from error
        device = _cluster_device(place, resources)
        size = Size(
            replicas=place.replicas or _fitting(place, resources, device),
            cpus=place.threads,
            gpus=1 if device == "cuda" else 0,
            environment=_ENVIRONMENT,
            capacity_timeout_s=place.capacity_timeout_s,
            patience_s=place.patience_s,
        )
        yield functools.partial(run_pool, size=size), device


def _local_device(place: Place) -> Device:
    if place.device != "auto":
        return place.device
    from deeplab.segmenter import find_device

    return "cuda" if find_device("auto").type == "cuda" else "cpu"


def _cluster_device(place: Place, resources: dict[str, float]) -> Device:
    gpus = resources.get("GPU", 0)
    if place.device == "cuda" and not gpus:
        raise InputError("device=cuda needs a GPU, the cluster has none; use -c device=cpu")
    if place.device == "auto":
        return "cuda" if gpus else "cpu"
    return place.device


def _fitting(place: Place, resources: dict[str, float], device: Device) -> int:
    if device == "cuda":
        return max(1, int(resources["GPU"]))
    return max(1, int(resources.get("CPU", 1)) // place.threads)
