from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import pytest

from cluster import connect as connect_module
from cluster.connect import connect
from cluster.outcomes import UnauthenticatedError


@pytest.mark.ray
def test_open_session_is_used_and_left_open(ray_session):
    with connect("203.0.113.1:6379") as resources:
        assert resources["CPU"] == ray_session["CPU"]
    with connect(None) as resources:
        assert resources["CPU"] == ray_session["CPU"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_workers_run_in_an_empty_folder_that_exists():
    import ray

    @ray.remote
    def folder() -> Path:
        return Path.cwd()

    where = ray.get(folder.remote())
    assert where.is_dir()
    assert not list(where.iterdir())
    assert where != Path.cwd()


@pytest.fixture
def join(monkeypatch):
    """Join a cluster that is not there: ``join(address, mode, asks=...)``."""

    def start(address, mode, *, asks=None, allow=False):
        steps = []

        def reach(*_, **__):
            steps.append("reach")
            return contextlib.nullcontext()

        def ask():
            steps.append("ask")
            return asks

        monkeypatch.setattr(socket, "create_connection", reach)
        monkeypatch.setattr(connect_module, "_start", lambda *_: steps.append("start"))
        monkeypatch.setattr(connect_module, "_asks_for_token", ask)
        monkeypatch.setattr(connect_module.ray, "shutdown", lambda: steps.append("stop"))
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        if mode:
            monkeypatch.setenv("RAY_AUTH_MODE", mode)
        try:
            connect_module._join(address, "", allow_unauthenticated=allow)
        except UnauthenticatedError as error:
            steps.append(str(error))
        return steps

    return start


@pytest.mark.parametrize("mode", ["", "disabled", "k8s"])
@pytest.mark.parametrize("address", ["10.0.0.5:6379", "ray://head:10001", "[fe80::1]:6379"])
def test_other_machines_are_not_joined_without_a_token(join, address, mode):
    reached, sentence = join(address, mode)
    assert reached == "reach"
    assert f"{address} is only used with token authentication" in sentence
    assert "set RAY_AUTH_MODE=token here and on every node" in sentence


def test_cluster_that_asks_for_no_token_is_left_again(join):
    *steps, sentence = join("10.0.0.5:6379", "token", asks=False)
    assert steps == ["reach", "start", "ask", "stop"]
    assert "10.0.0.5:6379 lets anybody in" in sentence


def test_cluster_that_asks_is_joined(join):
    assert join("10.0.0.5:6379", "token", asks=True) == ["reach", "start", "ask"]


def test_whoever_allows_it_is_not_asked(join):
    assert join("10.0.0.5:6379", "", allow=True) == ["reach", "start"]


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "localhost:6379", "ray://[::1]:1"])
def test_loopback_needs_no_token(join, address):
    assert join(address, "") == ["reach", "start"]


def test_closed_port_fails_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(OSError, match="refused"):
        connect_module._join(f"127.0.0.1:{port}", "", allow_unauthenticated=False)


def test_what_ray_prints_goes_to_the_log(monkeypatch, capsys, caplog):
    from ray._private import worker

    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    connect_module._keep_quiet()
    with caplog.at_level("DEBUG", logger="cluster.connect"):
        worker.print_to_stdstream({"lines": ["a worker died"]}, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["a worker died"]


def test_a_cluster_that_is_gone_is_not_waited_for(monkeypatch):
    """Ray keeps the address of the last one in a file, and would try for minutes."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    find = "get_ray_address_from_environment"
    monkeypatch.setattr(connect_module, find, lambda *_: address)
    monkeypatch.setattr(connect_module, "_start", lambda *_: pytest.fail("it was tried"))
    with pytest.raises(ConnectionRefusedError):
        connect_module._join("auto", "", allow_unauthenticated=False)
