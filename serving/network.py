"""Where a server listens: the check of its address, and the environment that keeps Ray's ports on loopback."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from serving.config import Proxy, ServerSettings
from serving.errors import StartError
from serving.haproxy import find_haproxy, wrap_haproxy
from serving.loopback import LOOPBACK, is_loopback
from serving.ports import haproxy_ports
from serving.ray_proxy import proxy_environment


def check_address(settings: ServerSettings) -> None:
    """Check that the server may and can listen on its address.

    Raises:
        StartError: other machines reach the address and there is neither a key nor `insecure`, or a port is in use.
    """
    check_open(settings, settings.host)
    if settings.grpc_port == settings.port:
        raise StartError(f"--port and --grpc-port are both {settings.port}: choose two ports")
    with bound_ports(settings):
        pass


def check_open(settings: ServerSettings, host: str) -> None:
    """Raise StartError if other machines reach `host` and there is neither a key nor `insecure`."""
    if not (is_loopback(host) or settings.access.keys or settings.insecure):
        raise StartError(f"{host} is open to other machines: give --keys or ZORSE_API_KEY, or say --insecure")


@contextlib.contextmanager
def bound_ports(settings: ServerSettings) -> Iterator[None]:
    """Keep the server's ports from other programs while the block runs: sockets that do not listen are bound to them.

    The kernel gives an outgoing connection no port that a socket is bound to. HAProxy can listen nevertheless, because
    it sets SO_REUSEADDR, as these sockets do. Ray's own proxy cannot.

    Raises:
        StartError: a port is in use.
    """
    ports = {"--port": settings.port, "--grpc-port": settings.grpc_port}
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with contextlib.ExitStack() as sockets:
        for option, port in ports.items():
            if port is None:
                continue
            bound = sockets.enter_context(socket.socket(family))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind((settings.host, port))
            except OSError as error:
                address = f"{settings.host}:{port}"
                raise StartError(
                    f"cannot listen on {address} ({error.strerror}): choose another {option} or --host"
                ) from error
        yield


def chosen_proxy(settings: ServerSettings) -> Proxy:
    """Return the proxy of the settings: for "auto" HAProxy where it is installed, otherwise Ray's own.

    Raises:
        StartError: HAProxy is not installed and is chosen or needed, or gRPC is to be served without it.
    """
    if settings.proxy == "ray" and settings.grpc_port is not None:
        raise StartError("Ray's own proxy does not serve gRPC: leave out --grpc-port, or --proxy ray")
    if settings.proxy == "ray":
        return "ray"
    if find_haproxy() is not None:
        return "haproxy"
    if settings.grpc_port is not None:
        raise StartError("gRPC needs HAProxy, which is not installed: install haproxy, or leave out --grpc-port")
    if settings.proxy == "haproxy":
        raise StartError("HAProxy is not installed: install haproxy, or choose --proxy ray")
    logging.getLogger(__name__).warning("HAProxy is not installed: Ray's own proxy is used, which is slower")
    return "ray"


def serve_host(settings: ServerSettings, proxy: Proxy) -> str:
    """Return the host that Ray Serve listens on. Behind HAProxy that is loopback, for the replicas' own ports too."""
    return LOOPBACK if proxy == "haproxy" else settings.host


@contextlib.contextmanager
def serve_environment(settings: ServerSettings, proxy: Proxy, folder: str, replicas: int) -> Iterator[dict[str, str]]:
    """Yield the environment variables that Ray reads when its processes start, for `replicas` of them.

    Raises:
        StartError: there are not enough free ports.
    """
    flag = str(int(proxy == "haproxy"))
    variables = {
        "RAY_AUTH_MODE": "token",
        # Ray's metrics would be on a port that needs no key.
        "RAY_enable_metrics_collection": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        # Two servers that start on one port at the same time would share its requests.
        "SERVE_SOCKET_REUSE_PORT_ENABLED": "0",
        # Calls between Ray's processes go through Ray, which checks the token (see serving.deployment).
        "RAY_SERVE_USE_GRPC_BY_DEFAULT": "0",
        # By default Ray Serve gives a proxy on a busy machine up too soon.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "45",
        # After three failed checks Ray Serve starts HAProxy again. By default that takes half a minute.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.3",
        # Ray's idle work takes from the models: these three are a third of it. By default the controller looks for
        # changes every 0.1 s, and every process reports the tasks that it has run.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.3",
        "RAY_task_events_report_interval_ms": "0",
        "RAY_event_stats": "0",
        "RAY_SERVE_ENABLE_HA_PROXY": flag,
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": flag,
        # With an arena for each thread, glibc keeps several times the memory that images of many sizes need.
        "MALLOC_ARENA_MAX": "2",
        # HAProxy needs a moment to route new requests elsewhere: after an update it may know only the replica that is
        # stopped, until it knows the new one. By default a stop takes half a minute.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
        # Workers must be able to import this package from a checkout, where it is not installed.
        "PYTHONPATH": os.pathsep.join(
            filter(None, [_without_pandas(folder), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])
        ),
    } | proxy_environment(to_zero=settings.replicas.min == 0)
    if proxy == "ray":
        yield variables
        return
    binary = find_haproxy()
    assert binary is not None, "chosen_proxy has found it"
    with haproxy_ports(folder, replicas) as ports:
        yield variables | ports | wrap_haproxy(binary, settings, folder)


def _without_pandas(folder: str) -> str:
    """Write a module that takes the place of pandas into the server's `folder`, and return where it is.

    Ray Serve imports pandas in every process if it is there, only to compare types with it. A process of a small model
    is a quarter smaller without.
    """
    place = Path(folder) / "modules"
    place.mkdir()
    (place / "pandas.py").write_text('raise ImportError("a server has no pandas")\n', encoding="utf-8")
    return str(place)
