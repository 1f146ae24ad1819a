"""The ports and paths of servers behind HAProxy."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from serving.ports import free_port, haproxy_ports

LOWEST, HIGHEST = "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT", "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"


def _ports(variables: dict[str, str]) -> set[int]:
    """Return all ports in the variables. Ray assigns replicas the ports below the highest."""
    fixed = {int(value) for name, value in variables.items() if name.endswith("_PORT") and "INGRESS" not in name}
    assert len(fixed) == 2
    return fixed | set(range(int(variables[LOWEST]), int(variables[HIGHEST])))


def test_free_port_is_returned_once_on_a_machine() -> None:
    program = "from serving.ports import free_port; print(*(free_port() for _ in range(50)))"
    ours = {free_port() for _ in range(50)}
    theirs = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(ours | set(map(int, theirs))) == 100


def test_free_port_is_none_that_the_kernel_gives_to_connections() -> None:
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert free_port() < first


@pytest.mark.parametrize("replicas", [1, 200])
def test_haproxy_ports_of_servers_at_the_same_time_are_apart(replicas: int) -> None:
    with haproxy_ports("/tmp/a", replicas) as one, haproxy_ports("/tmp/b", replicas) as two:
        first, second = _ports(one), _ports(two)
        assert not first & second
        assert len(first) >= 4 * replicas


def test_haproxy_ports_avoids_ports_in_use() -> None:
    with haproxy_ports("/tmp/a", 1) as variables:
        port = min(_ports(variables))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("", port - 1))  # the server's own, which no other server takes
        with socket.socket() as other:
            other.bind(("", port))


def test_haproxy_paths_are_in_the_folder() -> None:
    with haproxy_ports("/tmp/zorse-1-a", 1) as variables:
        paths = {value for name, value in variables.items() if not name.endswith("_PORT")}
    assert {path.rpartition("/")[0] for path in paths} == {"/tmp/zorse-1-a"}
    # HAProxy takes 97 characters with Ray's folder of the node, a number of 56 digits.
    longest = max(len(path) for name, path in variables.items() if name.endswith("SOCKET_PATH"))
    assert longest + len("4194304-abcdefgh") - len("1-a") + 57 <= 97
