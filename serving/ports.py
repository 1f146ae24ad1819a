"""Chooses ports: for a server that is told its port, and the inner ports and paths of a server behind HAProxy."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

from serving.errors import StartError

_FIRST, _LAST = 20_000, 32_000
"""A range between the ports of Ray's workers and the ephemeral ports of Linux."""
_BLOCK = 250
_SINGLE = range(_LAST + 1, 32_768)
"""The ports of `free_port`: above those of servers behind HAProxy, and below the ephemeral ports of Linux."""
_FIXED = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
_PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    # A short name: HAProxy accepts 97 characters, and Ray's folder for each node takes 56 of them.
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "s",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "m",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}

_locks: list[socket.socket] = []


def free_port() -> int:
    """Return a TCP port that no program uses. No other call on this machine returns it while this process lives.

    The port is not an ephemeral one, as port 0 would give. The kernel gives those to outgoing connections and to
    programs that ask for any port, so that one may be taken before the caller listens on it. The lock of a port is the
    UDP socket of the same number.

    Raises:
        StartError: there is no free port.
    """
    for port in random.sample(_SINGLE, len(_SINGLE)):
        lock = socket.socket(type=socket.SOCK_DGRAM)
        try:
            lock.bind(("127.0.0.1", port))
            _bind(port).close()
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return port
    raise StartError(f"no port is free from {_SINGLE[0]} to {_SINGLE[-1]}: stop another server")


@contextlib.contextmanager
def haproxy_ports(folder: str, replicas: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables that set the ports and paths of Ray Serve's HAProxy for `replicas` processes.

    All servers of a machine divide the same range of ports into blocks. A server binds the first port of each of its
    blocks while the context lasts, so that no other server takes the block. Otherwise a port that a dead replica left
    could become the port of another server's replica, and the first server's HAProxy would send requests to it. The
    paths are in `folder`.

    Raises:
        StartError: there are not enough free ports.
    """
    # Ray does not reuse a port for some minutes, so that restarted replicas need more ports.
    blocks = 1 + 4 * replicas // _BLOCK
    starts = list(range(_FIRST, _LAST - blocks * _BLOCK + 1, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        with contextlib.ExitStack() as sockets:
            if not _is_block_in_use(start, blocks, sockets):
                yield _variables(start, blocks, folder)
                return
    raise StartError(f"no {blocks * _BLOCK} ports are free from {_FIRST} to {_LAST}: stop another server")


def _is_block_in_use(start: int, blocks: int, sockets: contextlib.ExitStack) -> bool:
    """Return whether another program uses a port of the blocks from `start` on.

    The first port of each block stays bound in `sockets`.
    """
    try:
        for block in range(blocks):
            sockets.enter_context(_bind(start + block * _BLOCK))
        for index in range(len(_FIXED)):
            _bind(start + 1 + index).close()
    except OSError:
        return True
    return False


def _variables(start: int, blocks: int, folder: str) -> dict[str, str]:
    ports = {name: start + 1 + index for index, name in enumerate(_FIXED)}
    ports["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = start + 1 + len(_FIXED)
    ports["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = start + blocks * _BLOCK
    paths = {name: f"{folder}/{file}" for name, file in _PATHS.items()}
    return {name: str(port) for name, port in ports.items()} | paths


def _bind(port: int) -> socket.socket:
    """Return a socket that is bound to `port` on every interface. Raises OSError if another program uses the port."""
    bound = socket.socket()
    try:
        bound.bind(("", port))
    except OSError:
        bound.close()
        raise
    return bound
