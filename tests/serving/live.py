"""A server on a port of this machine, for clients that need a real connection: uvicorn in a thread, without Ray."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tests.serving.apps import transport


@contextmanager
def live_server(**options: Any) -> Iterator[str]:
    """Serve the applications of `transport(**options)` while the block runs, and yield the server's URL."""
    started = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await routes(scope, receive, send)
            return
        await receive()
        started.set()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    routes = transport(**{"batched": True, **options}).route
    server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            assert started.wait(30), "the server does not start"
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
