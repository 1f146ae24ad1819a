"""Clients that send their request a byte at a time, beside honest ones."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

from benchmarks.load.client import closed, requests_of
from benchmarks.peers.models import DCGAN
from benchmarks.peers.servers import Running
from serving.bench.requests import Work, split_target

SENDERS, CONCURRENCY, ROUNDS = 50, 8, 3
BYTE_SECONDS = 1.0


class SlowSenders:
    """Holds connections of which one half sends headers and the other half bodies, one byte a second each."""

    def __init__(self, url: str, count: int) -> None:
        target = split_target(url)
        path = f"/v2/models/{DCGAN}/generate"
        head = f"POST {path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n"
        whole = f"{head}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n"
        self._connections = [socket.create_connection((target.host, target.port)) for _ in range(count)]
        for number, connection in enumerate(self._connections):
            connection.sendall((whole if number % 2 else head).encode())
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self.ended: list[float] = []
        """When connections were ended by the server, in seconds after their start."""

    def __enter__(self) -> SlowSenders:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for connection in self._connections:
            connection.close()

    def _send(self) -> None:
        start, alive = time.monotonic(), list(self._connections)
        while not self._stop.wait(BYTE_SECONDS):
            for connection in list(alive):
                try:
                    connection.setblocking(False)
                    connection.send(b"x")
                    ended = connection.recv(4096, socket.MSG_PEEK) is not None  # an answer, or the end
                except BlockingIOError:
                    continue
                except OSError:
                    ended = True
                if ended:
                    alive.remove(connection)
                    self.ended.append(time.monotonic() - start)


def measure_slow_senders(server: Running, full: bool) -> list[dict[str, Any]]:
    """Compare honest requests beside slow senders with honest requests alone, in turn."""
    seconds, rounds = (20.0, ROUNDS) if full else (2.0, 1)
    requests = requests_of(server.url, DCGAN, Work("generate"))
    rows: list[dict[str, Any]] = []
    for _ in range(rounds):
        alone = closed(server.url, requests, CONCURRENCY, seconds)
        with SlowSenders(server.url, SENDERS) as senders:
            beside = closed(server.url, requests, CONCURRENCY, seconds)
        first, second = alone.summary(), beside.summary()
        rows.append(
            {
                "slow_senders": SENDERS,
                "alone_per_second": first["requests_per_second"],
                "beside_per_second": second["requests_per_second"],
                "beside_over_alone": round(second["requests_per_second"] / first["requests_per_second"], 3),
                "alone_ms": first["latency_ms"],
                "beside_ms": second["latency_ms"],
                "honest_statuses": second["statuses"],
                "slow_ended_by_the_server": len(senders.ended),
                "slow_ended_after_seconds": round(max(senders.ended), 1) if senders.ended else None,
            }
        )
    return rows
