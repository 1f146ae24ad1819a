"""HAProxy's part for gRPC: it finds the model's name in the protobuf message and sends the call to that model.

Like `haproxy_config`, the module uses the standard library alone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from serving.haproxy_text import ERRORS, REQUEST_ID, SENDER_SECONDS, UNAVAILABLE, ConfigError, quoted, replica_of

GRPC_SERVICE = "inference.GRPCInferenceService"
MESSAGE_BYTES = "x-message-bytes"
"""The header with the bytes of the first message of a gRPC call."""
NAMING_CALLS = ("ModelInfer", "ModelStreamInfer", "ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
"""The calls whose messages begin with the name of a model: it is their field 1."""
_GRPC_CODES = {400: 13, 408: 4, 500: 13, 502: 14, 503: 14, 504: 4}
"""The code of gRPC for each status that HAProxy answers by itself."""
_ERRORS = [
    f"    http-error status {status} hdr grpc-status {code} "
    f"hdr grpc-message {quoted(ERRORS[status][1] if status in ERRORS else UNAVAILABLE)}"
    for status, code in _GRPC_CODES.items()
]
_STREAM_SECONDS = 3600
"""How long a client may pause in a stream."""
_CONNECTIONS = 1024
"""The most connections at a time, so that those with long streams leave some to HTTP."""


def grpc_sections(
    sections: Mapping[str, list[str]], bind_line: str, sockets: str, replicas: Collection[str]
) -> list[list[str]]:
    """Return the frontend of gRPC, with `bind_line`, and its backends, one for each of Ray's backends in `sections`.

    - A call goes to the model that its first message names. HAProxy waits for that message, as far as it fits into its
      buffer: the name comes first. All else goes to the gateway: calls about the server, messages that are compressed,
      streams that begin without a message, and models of which no replica is here.
    - Servers are the Unix sockets in the folder `sockets` of those replicas that `replicas` has. Their health is that
      of Ray's servers.
    - Answers of HAProxy itself have the codes of gRPC.

    Raises:
        ConfigError: the path of a backend is not stated.
    """
    paths_of = _paths(sections["frontend http_frontend"])
    routes, default, backends = [], "grpc_none", [["backend grpc_none", *_ERRORS]]
    for name in (key.removeprefix("backend ") for key in sections if key.startswith("backend ")):
        if name == "default_backend":
            continue
        if name not in paths_of:
            raise ConfigError(f"the path of backend {name!r} is not stated")
        servers = [line.split()[1] for line in sections[f"backend {name}"] if line.startswith("    server ")]
        there = [(server, replica) for server in servers if (replica := replica_of(server)) in replicas]
        lines = [f"    server {s} unix@{sockets}/{r} proto h2 track {name}/{s}" for s, r in there]
        backends.append([f"backend grpc_{name}", "    http-reuse always", *_ERRORS, *lines])
        if paths_of[name] == "/":
            default = f"grpc_{name}"
        else:
            model = paths_of[name].rpartition("/")[2]
            condition = f"{{ var(txn.model) -m str {model} }} {{ nbsrv(grpc_{name}) gt 0 }}"
            routes.append(f"    use_backend grpc_{name} if {condition}")
    paths = " ".join(f"/{GRPC_SERVICE}/{call}" for call in NAMING_CALLS)
    frontend = [
        "frontend grpc_frontend",
        bind_line,
        f"    maxconn {_CONNECTIONS}",
        f"    timeout client {_STREAM_SECONDS}s",
        *_ERRORS,
        f"    acl names_model path {paths}",
        f"    acl is_stream path /{GRPC_SERVICE}/ModelStreamInfer",
        # A stream may begin without a message. To wait for a body would end it then.
        "    tcp-request inspect-delay 1s",
        "    tcp-request content accept if !is_stream",
        "    tcp-request content accept if { req.body_len ge 32 }",
        "    tcp-request content accept if WAIT_END",
        *REQUEST_ID,
        f"    http-request wait-for-body time {SENDER_SECONDS}s unless is_stream",
        # A byte that tells whether the message is compressed, and four with its length, come before it.
        f"    http-request set-header {MESSAGE_BYTES} %[req.body,bytes(1,4),be2dec(,4)]",
        "    http-request set-var(txn.model) req.body,bytes(5),protobuf(1) if names_model",
        *routes,
        f"    default_backend {default}",
    ]
    return [frontend, *backends]


def _paths(lines: list[str]) -> dict[str, str]:
    """Return the path of the application of each backend, as the lines of Ray's frontend state it."""
    pattern = re.compile(r"    acl is_(\S+) path (/\S*)")
    return {found[1]: found[2] for line in lines if (found := pattern.fullmatch(line))}
