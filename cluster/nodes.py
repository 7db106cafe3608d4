"""What happens to the nodes, asked with a time limit.

Ray's public calls wait for ever for a head node that is gone, and after a minute
end the process they are called in. Its own client takes a time limit, but is not
public, so whatever is missing in it only means that less is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.exceptions import RayError

_LIMIT_S: Final = 5.0
_DEAD: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """State of the nodes, by Ray's id."""

    draining: frozenset[str] = frozenset()
    """About to leave: they get no new work."""

    dead: frozenset[str] = frozenset()


def survey() -> Survey | None:
    """Look at all nodes; None where the cluster does not answer."""
    client = _client()
    if client is None:
        return Survey()
    try:
        return Survey(
            draining=draining_nodes(client),
            dead=frozenset(
                node.hex()
                for node, info in client.get_all_node_info(timeout=_LIMIT_S).items()
                if info.state == _DEAD
            ),
        )
    except AttributeError:
        return Survey()
    except (RayError, OSError):
        return None


def draining_nodes(client: Any) -> frozenset[str]:  # noqa: ANN401 - has no public type
    """Nodes that were asked to leave once their work has ended."""
    names = client.get_draining_nodes(timeout=_LIMIT_S)
    return frozenset(name if isinstance(name, str) else name.hex() for name in names)


def own_node() -> str:
    """Ray's id of the node that this process is on; empty outside of the cluster."""
    return ray.get_runtime_context().get_node_id() if _is_direct() else ""


def _client() -> Any:  # noqa: ANN401 - has no public type
    from ray._private import worker

    return getattr(worker.global_worker, "gcs_client", None) if _is_direct() else None


def _is_direct() -> bool:
    """Whether this process is part of the cluster, not a client at its door."""
    return not ray.util.client.ray.is_connected()  # type: ignore[no-untyped-call]
