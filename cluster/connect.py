"""Start Ray on this machine, or join a cluster.

Ray puts the driver's working directory first on the path of every worker, so a
``jobs/`` folder of the user's there would be imported instead of ours. The
driver therefore connects from an empty folder.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import ray

if TYPE_CHECKING:
    from collections.abc import Iterator

_REACH_S: Final = 5.0


@contextmanager
def connect(address: str | None, *, cpus: int | None = None) -> Iterator[dict[str, float]]:
    """Hold a connection to Ray for a block of code.

    A connection that exists already is used and left open.

    Args:
        address: Of a cluster, e.g. ``auto`` or ``ray://head:10001``; None starts
            one on this machine that ends with the block.
        cpus: CPUs of a cluster started here; None means all cores.

    Yields:
        The cluster's resources, e.g. ``{"CPU": 16.0, "GPU": 2.0}``.

    Raises:
        OSError: There is no cluster at ``address``.
    """
    if ray.is_initialized():
        yield cluster_resources()
        return
    # Workers run in the folder too, so it must stay as long as they do.
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        _start(address, cpus, folder)
        try:
            yield cluster_resources()
        finally:
            ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """What the whole cluster has, e.g. ``{"CPU": 16.0, "GPU": 2.0}``."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def _start(address: str | None, cpus: int | None, folder: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    if address is not None:
        _check_reachable(address)
    with contextlib.chdir(folder):
        ray.init(
            address="local" if address is None else address,
            num_cpus=cpus if address is None else None,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )


def _check_reachable(address: str) -> None:
    """Fail within seconds where Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_REACH_S):
            return
