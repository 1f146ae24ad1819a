"""The address and the proxy of a server, chosen before anything starts."""

from __future__ import annotations

import logging
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from serving.config import AccessSettings, ServerSettings
from serving.errors import StartError
from serving.keys import plain_key
from serving.network import bound_ports, check_address, chosen_proxy, serve_environment, serve_host
from serving.ports import free_port

SETTINGS = ServerSettings(repository="r")


@pytest.fixture
def without_haproxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", str(tmp_path / "none"))


@pytest.mark.usefixtures("without_haproxy")
def test_proxy_is_ray_with_one_line_where_haproxy_is_missing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert chosen_proxy(SETTINGS) == "ray"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["HAProxy is not installed"]
    with pytest.raises(StartError, match="HAProxy is not installed: install haproxy, or choose --proxy ray"):
        chosen_proxy(SETTINGS.model_copy(update={"proxy": "haproxy"}))


def test_proxy_of_ray_can_be_chosen() -> None:
    assert chosen_proxy(SETTINGS.model_copy(update={"proxy": "ray"})) == "ray"


def test_grpc_needs_haproxy() -> None:
    settings = SETTINGS.model_copy(update={"grpc_port": 8001})
    with pytest.raises(StartError, match="Ray's own proxy does not serve gRPC: leave out --grpc-port, or --proxy ray"):
        chosen_proxy(settings.model_copy(update={"proxy": "ray"}))


@pytest.mark.usefixtures("without_haproxy")
def test_grpc_is_not_left_out_silently_where_haproxy_is_missing() -> None:
    with pytest.raises(StartError, match="gRPC needs HAProxy, which is not installed"):
        chosen_proxy(SETTINGS.model_copy(update={"grpc_port": 8001}))


def test_port_of_grpc_must_be_free_and_another_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken, port = other.getsockname()[1], free_port()
        settings = SETTINGS.model_copy(update={"port": port, "grpc_port": taken})
        with pytest.raises(StartError, match=r"Address already in use.*: choose another --grpc-port or --host"):
            check_address(settings)
        with pytest.raises(StartError, match=f"--port and --grpc-port are both {port}: choose two ports"):
            check_address(settings.model_copy(update={"grpc_port": port}))


def test_port_of_a_server_is_kept_for_its_proxy() -> None:
    """A connection whose own port the kernel chooses does not get it, if no other one is left."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    ip_local_port_range, only_this = 51, struct.pack("I", port << 16 | port)
    with bound_ports(SETTINGS.model_copy(update={"port": port})), socket.create_server(("127.0.0.1", 0)) as other:
        with socket.socket() as connection:
            connection.setsockopt(socket.IPPROTO_IP, ip_local_port_range, only_this)
            with pytest.raises(OSError, match="Cannot assign requested address"):
                connection.connect(other.getsockname())
        # As HAProxy: Python sets SO_REUSEADDR for a server.
        with socket.create_server(("127.0.0.1", port)):
            socket.create_connection(("127.0.0.1", port)).close()


def test_ray_listens_on_loopback_behind_haproxy() -> None:
    settings = SETTINGS.model_copy(update={"host": "0.0.0.0"})
    assert serve_host(settings, "haproxy") == "127.0.0.1"
    assert serve_host(settings, "ray") == "0.0.0.0"


def test_address_of_other_machines_needs_a_key_or_consent() -> None:
    port = free_port()
    settings = SETTINGS.model_copy(update={"host": "0.0.0.0", "port": port})
    with pytest.raises(StartError, match=r"0\.0\.0\.0 is open to other machines: give --keys"):
        check_address(settings)
    check_address(settings.model_copy(update={"insecure": True}))
    check_address(settings.model_copy(update={"access": AccessSettings(keys=(plain_key("k"),))}))
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(StartError, match="Address already in use"):
            check_address(settings.model_copy(update={"host": "127.0.0.1"}))


def test_ray_knows_every_variable_that_it_is_given(tmp_path: Path) -> None:
    """Ray ignores a variable of a name that it does not have, or no longer has."""
    package = Path(ray.__file__).parent
    python = "\n".join(file.read_text() for file in package.rglob("*.py") if "tests" not in file.parts)
    core = (package / "core/src/ray/raylet/raylet").read_bytes()
    with serve_environment(SETTINGS, "haproxy", str(tmp_path), 2) as variables:
        own = [name for name in variables if name.startswith(("RAY_", "SERVE_"))]
    assert len(own) > 10
    unknown = [name for name in own if name not in python and name.removeprefix("RAY_").encode() not in core]
    assert unknown == []


def test_processes_of_a_server_have_ray_serve_without_pandas(tmp_path: Path) -> None:
    with serve_environment(SETTINGS, "ray", str(tmp_path), 2) as variables:
        program = "import sys, ray.serve, serving.app; print('pandas.core' in sys.modules)"
        words = [sys.executable, "-c", program]
        outputs = [
            subprocess.run(words, env=os.environ | added, check=True, capture_output=True, text=True).stdout.strip()
            for added in ({"PYTHONPATH": variables["PYTHONPATH"]}, {})
        ]
    # The second shows that this is worth its while: without the module Ray Serve imports pandas.
    assert outputs == ["False", "True"]
