"""The HTTP server of a replica, on a Unix socket behind HAProxy.

Ray Serve's own server in a replica spends 70 to 90 µs on each request, more than a small model needs, and listens on a
TCP port. HAProxy sends requests to the socket and asks Ray's server for the replica's health, so that Ray Serve still
decides which replicas get requests.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from serving.config import DRAIN_SECONDS
from serving.replica_connection import Connection, HttpApplication

_BACKLOG = 2048


def socket_folder(folder: str) -> Path:
    """Return the folder of the replicas' sockets, in the server's `folder`. It exists if HAProxy is in front.

    A socket's name is the id of its replica. The folder's is short, because HAProxy accepts paths of 97 characters.
    """
    return Path(folder) / "r"


def grpc_socket_folder(folder: str) -> Path:
    """Return the folder of the replicas' sockets of gRPC, as `socket_folder`. It exists if gRPC is served."""
    return Path(folder) / "g"


class ReplicaServer:
    """Serves an application on a Unix socket, in the running event loop."""

    def __init__(self, app: HttpApplication, path: Path) -> None:
        self._path = path
        self._connections: set[Connection] = set()
        loop = asyncio.get_running_loop()
        listening = loop.create_unix_server(lambda: Connection(app, self._connections), str(path), backlog=_BACKLOG)
        self._listening = loop.create_task(listening)

    @property
    def has_ended(self) -> bool:
        """Whether the server could not begin to listen, or listens no longer."""
        return self._listening.done() and (
            self._listening.exception() is not None or not self._listening.result().is_serving()
        )

    async def close(self) -> None:
        """Stop taking connections, finish the requests in flight, and remove the socket."""
        server = await self._listening
        server.close()
        self._path.unlink(missing_ok=True)
        for connection in list(self._connections):
            connection.close_when_idle()
        closing = [connection.closed for connection in self._connections]
        if closing:
            await asyncio.wait(closing, timeout=DRAIN_SECONDS)
        for connection in list(self._connections):
            connection.transport.abort()
