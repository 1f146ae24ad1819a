"""The HTTP server of a replica: uvicorn on a Unix socket, behind HAProxy.

Ray Serve's own server in a replica spends 70 to 90 µs on each request, more than a small model needs, and listens on a
TCP port. HAProxy sends requests to the socket and asks Ray's server for the replica's health, so that Ray Serve still
decides which replicas get requests.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from serving.config import DRAIN_SECONDS


def socket_folder(folder: str) -> Path:
    """Return the folder of the replicas' sockets, in the server's `folder`. It exists if HAProxy is in front.

    A socket's name is the id of its replica. The folder's is short, because HAProxy accepts paths of 97 characters.
    """
    return Path(folder) / "r"


def grpc_socket_folder(folder: str) -> Path:
    """Return the folder of the replicas' sockets of gRPC, as `socket_folder`. It exists if gRPC is served."""
    return Path(folder) / "g"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers to Ray."""
        yield


class ReplicaServer:
    """Serves an ASGI application on a Unix socket, in the running event loop."""

    def __init__(self, app: ASGIApp, path: Path) -> None:
        config = uvicorn.Config(
            app,
            uds=str(path),
            loop="none",  # the running one
            http="httptools",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            # The application sees HAProxy's headers as they are.
            proxy_headers=False,
            server_header=False,
            # HAProxy closes connections that it no longer uses; a lower limit would close them under its requests.
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            backlog=2048,
        )
        self._path = path
        self._server = _Server(config)
        self._task = asyncio.get_running_loop().create_task(self._server.serve())

    @property
    def has_ended(self) -> bool:
        """Whether the server no longer answers."""
        return self._task.done()

    async def close(self) -> None:
        """Stop taking connections, finish the requests in flight, and remove the socket."""
        self._server.should_exit = True
        await self._task
        self._path.unlink(missing_ok=True)
