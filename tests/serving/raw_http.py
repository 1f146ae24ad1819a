"""HTTP requests that are sent as they are written, which clients with good manners would refuse to send or change."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from http.client import HTTPResponse
from urllib.parse import urlsplit


def exchange(
    url: str, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout: float = 60
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a new connection: the status, the headers by lower-case name, and the body of its answer."""
    address = urlsplit(url)
    assert address.hostname is not None
    fields = {"host": address.netloc, "content-length": str(len(body)), **headers}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    with socket.create_connection((address.hostname, address.port or 80), timeout) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1") + body)
        with HTTPResponse(connection, method=method) as response:
            response.begin()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
