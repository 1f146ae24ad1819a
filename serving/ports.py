"""The inner ports and paths of a server behind HAProxy, which no other server on the machine has."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Iterator

from serving.errors import StartError

_FIRST, _LAST = 20_000, 32_000
"""Between the ports of Ray's workers and those that Linux gives to connections."""
_BLOCK = 250
_FIXED = (
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
)
_PATHS = {
    "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "haproxy.cfg",
    # Short: HAProxy takes 97 characters, of which Ray's folder for each node has 56.
    "RAY_SERVE_HAPROXY_SOCKET_PATH": "s",
    "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": "m",
    "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": "state",
    "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": "",
}


@contextlib.contextmanager
def haproxy_environment(folder: str, replicas: int) -> Iterator[dict[str, str]]:
    """Yield the variables that give Ray Serve's HAProxy ports and paths of its own, for `replicas` processes.

    All servers of a machine divide the same range of ports into blocks. A server holds the first port of each of its
    blocks while the context lasts: a port that a dead replica leaves cannot become that of another server's replica,
    to which the first server's HAProxy would still send requests. The paths are in `folder`.

    Raises:
        StartError: there are not enough free ports.
    """
    # Ray gives no port twice within minutes, so that replicas that restart need others.
    blocks = 1 + 4 * replicas // _BLOCK
    starts = list(range(_FIRST, _LAST - blocks * _BLOCK + 1, _BLOCK))
    random.shuffle(starts)
    for start in starts:
        with contextlib.ExitStack() as guards:
            if not _taken(start, blocks, guards):
                yield _variables(start, blocks, folder)
                return
    raise StartError(f"no {blocks * _BLOCK} ports are free from {_FIRST} to {_LAST}: stop another server")


def _taken(start: int, blocks: int, guards: contextlib.ExitStack) -> bool:
    """Whether another program has a port that we need of the blocks from `start` on; `guards` holds each first one."""
    try:
        for block in range(blocks):
            guards.enter_context(_bound(start + block * _BLOCK))
        for index in range(len(_FIXED)):
            _bound(start + 1 + index).close()
    except OSError:
        return True
    return False


def _variables(start: int, blocks: int, folder: str) -> dict[str, str]:
    ports = {name: start + 1 + index for index, name in enumerate(_FIXED)}
    ports["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = start + 1 + len(_FIXED)
    ports["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = start + blocks * _BLOCK
    paths = {name: f"{folder}/{file}" for name, file in _PATHS.items()}
    return {name: str(port) for name, port in ports.items()} | paths


def _bound(port: int) -> socket.socket:
    """Return a socket that holds `port` of every interface; raises OSError where another program has it."""
    held = socket.socket()
    try:
        held.bind(("", port))
    except OSError:
        held.close()
        raise
    return held
