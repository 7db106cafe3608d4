"""Where replicas live: what is asked for reaches the pool, what is refused the user."""

import contextlib

import pytest

import cluster.connect
from cluster.outcomes import (
    ClusterLostError,
    NoCapacityError,
    UnauthenticatedError,
    WorkerBugError,
)
from jobs.commands import stoppable
from jobs.engine import Place, open_engine
from jobs.errors import BugError, InputError, UnfinishedError


@pytest.fixture
def connected(monkeypatch):
    """A cluster of 8 CPUs and as many GPUs as ``connected.gpus``: what it was asked."""

    class Connected(list):
        gpus = 0
        error = None

    calls = Connected()

    @contextlib.contextmanager
    def connect(address, **options):
        if calls.error is not None:
            raise calls.error
        calls.append((address, options))
        yield {"CPU": 8.0} | ({"GPU": calls.gpus} if calls.gpus else {})

    monkeypatch.setattr(cluster.connect, "connect", connect)
    return calls


def size_of(**fields):
    with open_engine(Place(**fields)) as (engine, device):
        return engine.keywords["size"], device


def test_waiting_is_bounded_as_asked_for(connected):
    size, _ = size_of(patience_s=7.0, capacity_timeout_s=3.0)
    assert (size.patience_s, size.capacity_timeout_s) == (7.0, 3.0)
    assert connected[0][1]["allow_unauthenticated"] is False
    with open_engine(Place(local=True, device="cpu", patience_s=7.0)) as (engine, device):
        assert (engine.keywords, device) == ({"patience_s": 7.0}, "cpu")


def test_an_unguarded_cluster_must_be_allowed(connected):
    size_of(address="ray://head:1", allow_unauthenticated=True)
    ((address, options),) = connected
    assert address == "ray://head:1"
    assert options["allow_unauthenticated"] is True


def test_replicas_fill_the_cluster(connected):
    size, device = size_of(threads=3)
    assert (device, size.replicas, size.cpus, size.gpus) == ("cpu", 2, 3, 0)
    assert size_of(threads=16)[0].replicas == 1
    assert size_of(replicas=5)[0].replicas == 5
    connected.gpus = 2.0
    size, device = size_of()
    assert (device, size.replicas, size.gpus) == ("cuda", 2, 1)
    assert size_of(device="cpu")[0].gpus == 0


def test_a_device_that_is_not_there_is_refused(connected):
    assert connected.gpus == 0
    with pytest.raises(InputError, match="device=cuda needs a GPU, the cluster has none"):
        size_of(device="cuda")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            UnauthenticatedError("it lets anybody in: set X, or allow it"),
            "^it lets anybody in: set X, or allow it with -c allow_unauthenticated=true$",
        ),
        (
            ConnectionRefusedError("refused"),
            "^no Ray cluster answers at ray://head:1: refused; start one",
        ),
    ],
    ids=["unauthenticated", "nobody"],
)
def test_what_a_cluster_says_reaches_the_user(connected, error, words):
    connected.error = error
    with pytest.raises(InputError, match=words):
        size_of(address="ray://head:1")


@pytest.mark.parametrize(
    ("raised", "seen", "code"),
    [
        (NoCapacityError("no room"), UnfinishedError, 4),
        (ClusterLostError("gone"), UnfinishedError, 4),
        (WorkerBugError("trace"), BugError, 1),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_pool_says_is_an_exit_code(raised, seen, code):
    with pytest.raises(seen, match=str(raised)) as caught, stoppable():
        raise raised
    assert caught.value.exit_code == code
    assert caught.value.__cause__ is raised
