"""The words of HAProxy's configuration: what both its HTTP and its gRPC part are made of.

Like `haproxy_config`, the module uses the standard library alone.
"""

from __future__ import annotations

import json

RETRY_SECONDS = 5
"""When a client should try again: about the time in which a dead replica is replaced."""
SENDER_SECONDS = 10
"""How long a client may take for the headers of a request, and for its body, and how long it may pause in a body."""
UNAVAILABLE = "the model cannot answer at this moment, because its server starts, stops or replaces it: try again"
ERRORS = {
    400: ("bad_request", "the request is not valid HTTP"),
    408: ("slow_request", "the request was not complete in time: send its headers and body faster"),
    413: ("too_large", "the request is larger than the server takes"),
    500: ("internal", "internal error"),
    501: ("unsupported", "the server does not have this method of HTTP"),
    504: ("deadline", "the model did not answer in time"),
}
"""The code and message of each status that HAProxy answers by itself, except 502 and 503."""
_ID = "var(txn.request_id)"
REQUEST_ID = [
    f"    http-request set-{_ID} req.hdr(x-request-id),bytes(0,128),regsub([^-A-Za-z0-9._:/+=@],?,g)",
    f"    http-request set-{_ID} uuid unless {{ {_ID} -m len 1:128 }}",
    f"    http-request set-header x-request-id %[{_ID}]",
    f"    http-after-response set-header x-request-id %[{_ID}] if {{ {_ID} -m found }}",
]
"""Give each request the id that the client stated, as far as it is harmless, or a new one, and each answer the same."""


class ConfigError(ValueError):
    """A line that Ray Serve's configuration for HAProxy should have is missing."""


def sections_of(text: str) -> dict[str, list[str]]:
    """Return the lines of each section by its first line, without comments and empty lines."""
    sections: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if not line.strip() or line.strip().startswith("#"):
            continue
        if not line.startswith(" "):
            lines = sections.setdefault(line.strip(), [])
        lines.append(line.rstrip())
    return sections


def bind(host: str, port: int, protocol: str) -> str:
    """Return the line with which HAProxy listens on an address."""
    # The address :: stands for those of both families.
    return f"    bind {host}:{port} proto {protocol}{' v4v6' if host == '::' else ''}"


def replica_of(server: str) -> str:
    """Return the id of a replica. Ray's name of its server ends with it, after a hyphen."""
    return server.rpartition("-")[2]


def error_body(code: str, message: str) -> str:
    """Return the JSON of a failed request."""
    return json.dumps({"error": message, "code": code})


def returned(body: str) -> str:
    """Return the arguments of `http-request return` and `http-error` for a JSON body."""
    return f"content-type application/json string {quoted(body)}"


def quoted(text: str) -> str:
    """Quote a word of HAProxy's configuration. Within single quotes every character but the quote stands for itself."""
    return "'" + text.replace("'", "'\\''") + "'"
