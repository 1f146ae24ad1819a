"""The state of a running server by model, read from its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from serving.client import Client
from serving.errors import ServerError
from serving.readings import MEMORY, Readings, parse
from serving.verb import running_routes

_COUNT = "zorse_request_seconds_count"


@dataclass(frozen=True)
class ModelStatus:
    """One model. `requests` and `failed` count those that run the model, since the server's start.

    `failed` are those with a status of 500 or more. `per_second` is the rate of requests, measured now. `p50_seconds`
    and `p99_seconds` are over all requests since the start, or None before the first. `rejected` are requests of any
    kind that were refused before any work was done. `queued` are images, `in_flight` requests of any kind, and
    `memory_bytes` is that of all replicas.
    """

    name: str
    version: str
    kind: str
    replicas: int
    requests: int
    failed: int
    rejected: int
    per_second: float
    p50_seconds: float | None
    p99_seconds: float | None
    queued: int
    in_flight: int
    memory_bytes: int


@dataclass(frozen=True)
class NodeStatus:
    """A machine, by its host name, with the number of replicas on it and their memory."""

    node: str
    replicas: int
    memory_bytes: int


@dataclass(frozen=True)
class ServerStatus:
    """A server. It is ready if every model that it serves can answer.

    `loading` are the versions that are being started, as `<model>/<version>`, and `unavailable` has the reasons of the
    others of its repository that do not answer.
    """

    url: str
    ready: bool
    models: tuple[ModelStatus, ...]
    nodes: tuple[NodeStatus, ...]
    loading: tuple[str, ...]
    unavailable: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the status as an object of JSON."""
        return asdict(self)


def server_status(client: Client, url: str, clock: Callable[[], float], pause: Callable[[], object]) -> ServerStatus:
    """Return the status of the server of `client`. The rate is that during `pause`; `clock` is in seconds.

    Raises:
        ServerError: the server does not answer, or its metrics cannot be read.
    """
    models = client.models()
    before, began = _readings(client), clock()
    pause()
    now, seconds = _readings(client), clock() - began
    statuses = tuple(_model(model, before, now, seconds) for model in models)
    index = [
        (f"{one['name']}/{one['version']}".rstrip("/"), one["state"], one.get("reason", "")) for one in client.index()
    ]
    loading = tuple(name for name, state, _ in index if state == "LOADING")
    unavailable = {name: reason for name, state, reason in index if state == "UNAVAILABLE"}
    return ServerStatus(url, client.ready(), statuses, _nodes(now), loading, unavailable)


def _readings(client: Client) -> Readings:
    try:
        return parse(client.metrics())
    except ValueError as error:
        raise ServerError(f"the page of the server's metrics cannot be read: {error}", 200, "protocol") from error


def _nodes(now: Readings) -> tuple[NodeStatus, ...]:
    # Each process has one sample of its memory.
    processes = Counter(sample.labels["node"] for sample in now.samples if sample.name == MEMORY)
    memory = now.by("node", MEMORY)
    return tuple(NodeStatus(node, processes[node], round(memory[node])) for node in sorted(memory))


def _model(model: dict[str, Any], before: Readings, now: Readings, seconds: float) -> ModelStatus:
    labels = {"model": str(model["name"]), "version": str(model["version"])}
    routes = running_routes()
    counts = now.only("route", routes).by("status", _COUNT, **labels)
    requests = sum(counts.values())
    earlier = before.only("route", routes).total(_COUNT, **labels)
    p50, p99 = (now.only("route", routes).quantile("zorse_request_seconds", share, **labels) for share in (0.5, 0.99))
    return ModelStatus(
        name=labels["model"],
        version=labels["version"],
        kind=str(model["kind"]),
        replicas=round(now.total("zorse_replicas", **labels)),
        requests=round(requests),
        failed=round(sum(count for status, count in counts.items() if status >= "500")),
        rejected=round(now.total("zorse_rejected_total", **labels)),
        per_second=round((requests - earlier) / seconds, 1) if seconds else 0.0,
        p50_seconds=p50,
        p99_seconds=p99,
        queued=round(now.total("zorse_queued", **labels)),
        in_flight=round(now.total("zorse_in_flight", **labels)),
        memory_bytes=round(now.total(MEMORY, **labels)),
    )
