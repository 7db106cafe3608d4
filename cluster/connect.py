"""Start Ray on this machine, or join a cluster.

Ray puts the driver's working directory first on the path of every worker, so a
``jobs/`` folder of the user's there would be imported instead of ours. The
driver therefore connects from an empty folder.

Whoever reaches a cluster without authentication runs any code on it, and so gets
its credentials. One on other machines is only used if it asks for a token.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import ray
from ray._private.services import get_ray_address_from_environment
from ray.exceptions import AuthenticationError, RayError

from cluster.outcomes import UnauthenticatedError

if TYPE_CHECKING:
    from collections.abc import Iterator

_REACH_S: Final = 5.0
_ANSWER_S: Final = 60.0
_MODE: Final = "RAY_AUTH_MODE"
_REMEDY: Final = (
    "set RAY_AUTH_MODE=token here and on every node before 'ray start', with the same "
    "~/.ray/auth_token or RAY_AUTH_TOKEN, or allow an unauthenticated cluster"
)

_log = logging.getLogger(__name__)


@contextmanager
def connect(
    address: str | None, *, cpus: int | None = None, allow_unauthenticated: bool = False
) -> Iterator[dict[str, float]]:
    """Hold a connection to Ray for a block of code.

    A connection that exists already is used and left open.

    Args:
        address: Of a cluster, e.g. ``auto`` or ``ray://head:10001``; None starts
            one on this machine that ends with the block.
        cpus: CPUs of a cluster started here; None means all cores.
        allow_unauthenticated: Use a cluster that other machines may reach even if
            it lets anybody in.

    Yields:
        The cluster's resources, e.g. ``{"CPU": 16.0, "GPU": 2.0}``.

    Raises:
        OSError: There is no cluster at ``address``.
        UnauthenticatedError: It lets anybody in, or lets this program not.
    """
    if ray.is_initialized():
        yield cluster_resources()
        return
    # Workers run in the folder too, so it must stay as long as they do.
    with tempfile.TemporaryDirectory(prefix="atrous-") as folder:
        if address is None:
            _start("local", folder, num_cpus=cpus, include_dashboard=False)
        else:
            _join(address, folder, allow_unauthenticated=allow_unauthenticated)
        try:
            yield cluster_resources()
        finally:
            ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """What the whole cluster has, e.g. ``{"CPU": 16.0, "GPU": 2.0}``."""
    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total


def _start(address: str, folder: str, **options: Any) -> None:  # noqa: ANN401 - Ray's
    logging.getLogger("ray").setLevel(logging.ERROR)
    _keep_quiet()
    with contextlib.chdir(folder):
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
            **options,
        )


def _join(address: str, folder: str, *, allow_unauthenticated: bool) -> None:
    if address == "auto":
        # The file that Ray finds it in may be of a cluster that is gone.
        address = get_ray_address_from_environment(address, None)
    host = _check_reachable(address)
    guarded = not (allow_unauthenticated or _is_loopback(host))
    if guarded and host and os.environ.get(_MODE, "").lower() != "token":
        raise UnauthenticatedError(
            f"the cluster at {address} is only used with token authentication, which is "
            f"off here: {_REMEDY}"
        )
    try:
        _start(address, folder)
    except AuthenticationError as error:
        raise UnauthenticatedError(
            f"the cluster at {address} refuses this program: {error.message}; {_REMEDY}"
        ) from error
    host = host or _host_of(ray.get_runtime_context().gcs_address)
    if allow_unauthenticated or _is_loopback(host) or _asks_for_token():
        return
    ray.shutdown()
    raise UnauthenticatedError(f"the cluster at {address} lets anybody in: {_REMEDY}")


def _asks_for_token() -> bool:
    """Ask the cluster itself: that the driver sends a token does not mean it is read."""
    ask = ray.remote(_token_mode).options(num_cpus=0, max_retries=1)
    try:
        answer: bool = ray.get(ask.remote(), timeout=_ANSWER_S)
    except RayError as error:
        ray.shutdown()
        raise OSError(f"the cluster runs no task: {error}") from error
    return answer


def _token_mode() -> bool:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return is_token_auth_enabled()


def _keep_quiet() -> None:
    """Log what Ray would print on stdout when anything dies; no setting turns it off.

    It belongs to no one there: stdout is for results, and deaths are reported by
    the pool, in one line and only where they matter.
    """
    from ray._private import worker

    def log(data: dict[str, Any], *_: object, **__: object) -> None:
        _log.debug("%s", "\n".join(data.get("lines", ())))

    worker.print_to_stdstream = log


def _check_reachable(address: str) -> str:
    """Fail within seconds where Ray would try for minutes; the host, if one is named."""
    host, port = _host_of(address), address.rpartition(":")[2]
    if host and port.isdecimal():
        with socket.create_connection((host, int(port)), timeout=_REACH_S):
            pass
    return host


def _host_of(address: str) -> str:
    return address.removeprefix("ray://").rpartition(":")[0].strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
