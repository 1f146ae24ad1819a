"""Clients that send a request and close the connection: their work should not be done."""

from __future__ import annotations

import socket
import time
from typing import Any

from benchmarks.load.client import closed, metric, requests_of
from benchmarks.peers.models import RESNET, SIZE
from benchmarks.peers.servers import Running
from serving.bench.requests import Work, split_target

WAIT_SECONDS = 0.3
"""How long each client waits before it closes."""
SETTLE_SECONDS = 120


def measure_vanishing_clients(server: Running, full: bool) -> list[dict[str, Any]]:
    """Compare the images that the server makes for clients that vanish with their number."""
    clients = 100 if full else 20
    requests = requests_of(server.url, RESNET, Work("translate", sizes=((SIZE, SIZE),)))
    alone = closed(server.url, requests, 1, 2.0).latency
    rows = metric(server.url, "zorse_rows", RESNET)
    target = split_target(server.url)
    connections = [socket.create_connection((target.host, target.port)) for _ in range(clients)]
    for number, connection in enumerate(connections):
        connection.sendall(requests[number % len(requests)])
    time.sleep(WAIT_SECONDS)
    for connection in connections:
        connection.close()
    next_latency = closed(server.url, requests, 1, 60, requests=1, warm_up=0).latency
    settled = _wait_until_idle(server.url)
    made = metric(server.url, "zorse_rows", RESNET) - rows - len(next_latency)
    return [
        {
            "clients": clients,
            "images_made_for_them": made,
            "share_of_work_done": round(made / clients, 3),
            "request_alone_ms": round(1000 * float(alone.mean()), 1),
            "next_request_ms": round(1000 * float(next_latency[0]), 1),
            "seconds_until_idle": round(settled, 2),
        }
    ]


def _wait_until_idle(url: str) -> float:
    """Return the seconds until the server has no request of the model."""
    start = time.monotonic()
    while metric(url, "zorse_in_flight", RESNET) and time.monotonic() - start < SETTLE_SECONDS:
        time.sleep(0.1)
    return time.monotonic() - start
