"""Rewrites the configuration that Ray Serve renders for HAProxy, and starts HAProxy with it.

The module is also the program that Ray starts in place of HAProxy. It uses the standard library alone, and runs without
the packages of the environment, so that it starts fast. What it imports of this package does so too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from serving.haproxy_grpc import grpc_sections
from serving.haproxy_text import (
    ERRORS,
    REQUEST_ID,
    RETRY_SECONDS,
    SENDER_SECONDS,
    UNAVAILABLE,
    ConfigError,
    bind,
    error_body,
    quoted,
    replica_of,
    returned,
    sections_of,
)

_METHODS = "GET HEAD POST PUT PATCH DELETE OPTIONS TRACE"
_UNUSED_SECTIONS = ("frontend prometheus", "listen stats")


class Front(NamedTuple):
    """The public side of a server.

    `host` and `port` are the address to listen on, `grpc_port` is that for gRPC, or 0 for none, and `max_bytes` is the
    largest body of a request.
    `unavailable` is the path of the file with the answer of a model that has no live replica (see
    `unavailable_answer`). `sockets` and `grpc_sockets` are the folders of the replicas' Unix sockets, and `log` the
    server's log.
    """

    host: str
    port: int
    max_bytes: int
    unavailable: str
    sockets: str
    log: str
    grpc_port: int
    grpc_sockets: str


def rewrite(text: str, front: Front, replicas: Collection[str] = (), grpc_replicas: Collection[str] = ()) -> str:
    """Return Ray Serve's configuration of HAProxy `text` with the protection of `front`.

    - HAProxy listens on the address of `front` only, for HTTP/1. Its pages with metrics and statistics are left out.
    - Only this user can use its admin socket.
    - It writes no log: Ray would have it send a line for each request to port 514.
    - A client must send the headers of a request within `SENDER_SECONDS`, and then its body within that time, as far as
      it fits into HAProxy's buffer. With that part requests reach a replica, which limits the time of the rest; HAProxy
      closes connections that pause twice as long.
    - Requests have an id, and answers repeat it.
    - Letters that a client has encoded in a path without need are decoded, so that the model's name is found.
    - Methods that no route has, and bodies that are too large and that the client has not begun to send, are refused.
    - Ray's own routes `/-/…` answer 404. Clients cannot set Ray's headers, nor the address that replicas see.
    - What HAProxy answers itself is JSON. While there is no application yet, or no longer, it answers 503.
    - Requests go to the Unix socket of a replica that has one in `replicas`, the names of the files in the folder
      `front.sockets`. Its health is still that of its port, where Ray Serve answers.
    - With a `grpc_port` there are sections for gRPC: see `grpc_sections`.

    Raises:
        ConfigError: a line that is to be changed is not there exactly once.
    """
    sections = sections_of(text)
    for name in _UNUSED_SECTIONS:
        if sections.pop(name, None) is None:
            raise ConfigError(f"there is no section {name!r}")
    for name, changes in _changes(front).items():
        if name not in sections:
            raise ConfigError(f"there is no section {name!r}")
        for start, lines in changes.items():
            sections[name] = _replaced(sections[name], start, lines, name)
    sections["global"] = [line.replace(" mode 666 ", " mode 600 ") for line in sections["global"]]
    if not any(line.startswith("    stats socket ") and " mode 600 " in line for line in sections["global"]):
        raise ConfigError("section 'global' has no line 'stats socket' with mode 666")
    backends = [name for name in sections if name.startswith("backend ") and name != "backend default_backend"]
    added = []
    if front.grpc_port:
        line = bind(front.host, front.grpc_port, "h2")
        added = grpc_sections(sections, line, front.grpc_sockets, grpc_replicas)
    for name in backends:
        # In the backend, because a frontend answers incomplete requests in HTML.
        lines = [_through_socket(line, front.sockets, replicas) for line in sections[name][1:]]
        sections[name] = [sections[name][0], "    option http-buffer-request", *lines]
    return "".join(f"{line}\n" for lines in (*sections.values(), *added) for line in lines)


def unavailable_answer() -> str:
    """Return the HTTP answer of a model that has no live replica."""
    body = error_body("unavailable", UNAVAILABLE)
    headers = f"content-type: application/json\r\nretry-after: {RETRY_SECONDS}\r\ncontent-length: {len(body)}"
    return f"HTTP/1.1 503 Service Unavailable\r\n{headers}\r\n\r\n{body}"


def main(arguments: list[str]) -> None:
    """Rewrite the file behind `-f` in HAProxy's arguments for the given front, and become HAProxy.

    The arguments are the fields of `Front`, the path of HAProxy, and its own arguments. Ray Serve checks the process id
    and the arguments of the process that it started, and both stay.
    """
    host, port, max_bytes, unavailable, sockets, log, grpc_port, grpc_sockets, binary, *own = arguments
    file = Path(own[own.index("-f") + 1])
    front = Front(host, int(port), int(max_bytes), unavailable, sockets, log, int(grpc_port), grpc_sockets)
    if "-sf" not in own:
        _note_start(file.with_name("started"), Path(log))
    replicas, grpc_replicas = ([entry.name for entry in Path(folder).glob("*")] for folder in (sockets, grpc_sockets))
    try:
        text = rewrite(file.read_text(encoding="utf-8"), front, replicas, grpc_replicas)
    except ConfigError as error:
        sys.exit(f"the configuration of HAProxy is not the expected one: {error}")
    file.write_text(text, encoding="utf-8")
    os.execv(binary, [binary, *own])


def _note_start(mark: Path, log: Path) -> None:
    """Write a line to the server's log if HAProxy was started before, which the file `mark` says: then it has died."""
    if mark.exists():
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        message = "HAProxy has died and is started again: meanwhile no connection was taken"
        with log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time, "level": "error", "message": message}) + "\n")
    mark.touch()


def _changes(front: Front) -> dict[str, dict[str, list[str]]]:
    """Return for each section the starts of lines, and the lines that take their places."""
    not_found = error_body("not_found", "there is no such route: GET /v2 describes the server")
    unavailable = error_body("unavailable", UNAVAILABLE)
    return {
        # Of the normalization of paths.
        "global": {"    log ": ["    expose-experimental-directives"]},
        "defaults": {
            "    mode http": [
                "    mode http",
                f"    timeout http-request {SENDER_SECONDS}s",
                *(f"    http-error status {s} {returned(error_body(*error))}" for s, error in ERRORS.items()),
            ],
            # HAProxy waits for as long before it tries again.
            "    timeout connect ": ["    timeout connect 200ms"],
            # No limit for a replica's answer, which HAProxy wants to be said: the batcher has one.
            "    timeout client ": [f"    timeout client {2 * SENDER_SECONDS}s", "    timeout server 0"],
            "    errorfile 502 ": [f"    errorfile 502 {quoted(front.unavailable)}"],
            "    errorfile 503 ": [f"    errorfile 503 {quoted(front.unavailable)}"],
            "    errorfile 504 ": [],
        },
        "frontend http_frontend": {
            "    bind ": [
                bind(front.host, front.port, "h1"),
                *REQUEST_ID,
                "    http-request normalize-uri percent-decode-unreserved",
                f"    http-request return status 501 {returned(error_body(*ERRORS[501]))} "
                f"unless {{ method {_METHODS} }}",
                "    http-request return status 204 hdr allow 'GET,HEAD,OPTIONS,POST' if METH_OPTIONS { url * }",
                # HAProxy would ask for the body, to hand its start on.
                f"    http-request return status 413 {returned(error_body(*ERRORS[413]))} "
                f"if {{ req.hdr(expect) -m found }} {{ req.hdr_val(content-length) gt {front.max_bytes} }}",
                # Decoded, as Ray compares it.
                f"    http-request return status 404 {returned(not_found)} if {{ path,url_dec -m beg /-/ }}",
                "    http-request del-header x-request-timeout-seconds",
                # Replicas speak HTTP/1.1 alone. Some clients (Java's) offer HTTP/2 with their first request, whose body
                # a parser would take for the other protocol.
                "    http-request del-header upgrade",
                "    http-request set-header x-request-disconnect-disabled ?1",
                "    http-request set-header x-forwarded-for %[src]",
            ],
        },
        "backend default_backend": {
            "    http-request return status 404 ": [
                # A connection that is closed while the client still sends loses the answer.
                "    http-request wait-for-body time 1s",
                f"    http-request return status 503 {returned(unavailable)} hdr retry-after {RETRY_SECONDS}",
            ],
        },
    }


def _through_socket(line: str, sockets: str, replicas: Collection[str]) -> str:
    """Return the line of a backend with its server's Unix socket for its address, if `replicas` has its id."""
    words = line.split()
    if len(words) < 4 or words[0] != "server" or words[3] != "check":
        return line
    _, name, address, check, *options = words
    replica = replica_of(name)
    if replica not in replicas:
        return line
    host, _, port = address.rpartition(":")
    return " ".join(["    server", name, f"unix@{sockets}/{replica}", check, "addr", host, "port", port, *options])


def _replaced(lines: list[str], start: str, new: list[str], section: str) -> list[str]:
    """Return `lines` with `new` in the place of the one line that begins with `start`."""
    found = [index for index, line in enumerate(lines) if line.startswith(start)]
    if len(found) != 1:
        raise ConfigError(f"section {section!r} has {len(found)} lines {start.strip()!r} instead of one")
    return [*lines[: found[0]], *new, *lines[found[0] + 1 :]]
