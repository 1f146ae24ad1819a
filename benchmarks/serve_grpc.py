"""Compares gRPC with HTTP: `zorse serve` with all defaults, the stock asynchronous Python clients of tritonclient.

    python -m benchmarks.serve_grpc [--rounds 3] [--seconds 2] [--works "dcgan32 infer"]

It takes three to four minutes. The ways must answer alike, and take turns in every round; rows are medians.
`concurrency` is the number of requests in flight: calls of one client, or requests of one stream that are not answered
yet. `cpu_us_per_request` is the CPU time of the server's processes alone: the Python clients, on the same cores, take
more than the server and limit the rates. Writes `benchmarks/results/serve_grpc.json`.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc_client
import tritonclient.http.aio as http_client
from tritonclient.utils import np_to_triton_dtype

from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.peers.models import export_models
from benchmarks.peers.servers import (
    SERVERS,
    WORKS,
    Running,
    running,
    stop_servers_on_sigterm,
    tensor_request,
)
from benchmarks.report import write_report
from serving.open_inference import HEADER_LENGTH, parse_infer
from serving.ports import free_port

CONCURRENCIES = (1, 8, 32)
WARM_UP_SECONDS = 0.5
Ask = Callable[[float, int], Awaitable[list[float]]]
"""Sends requests for some seconds at a concurrency, and returns the seconds that each took."""


def main() -> None:
    """Measure every cell in every round and write the rows."""
    stop_servers_on_sigterm()
    parser = argparse.ArgumentParser(description="Compare gRPC with HTTP.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--works", default="dcgan32 infer,resnet9 infer")
    parser.add_argument("--name", default="serve_grpc", help="the name of the result")
    arguments = parser.parse_args()
    cells: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    grpc_port = free_port()
    server = dataclasses.replace(
        SERVERS[0], command=lambda *words: [*SERVERS[0].command(*words), "--grpc-port", str(grpc_port)]
    )
    works = arguments.works.split(",")
    with running(server, export_models(ENVIRONMENTS / "repository"), works[0]) as started:
        for number in range(arguments.rounds):
            for work in works:
                measure = _measure(started, f"127.0.0.1:{grpc_port}", work, arguments.seconds, number)
                for key, figures in asyncio.run(measure).items():
                    cells.setdefault((work, *key), []).append(figures)
    rows = [
        {"work": work, "way": way, "concurrency": concurrency}
        | {key: round(statistics.median(one[key] for one in rounds), 3) for key in rounds[0]}
        for (work, way, concurrency), rounds in cells.items()
    ]
    keys = {"rounds": arguments.rounds, "seconds": arguments.seconds, "client": "tritonclient, asynchronous, in Python"}
    write_report(arguments.name, keys | {"rows": rows, "ratios": _ratios(rows)})


async def _measure(
    server: Running, target: str, work: str, seconds: float, turn: int
) -> dict[tuple[str, int], dict[str, float]]:
    """Return the figures of one round by way and concurrency. The ways begin with another one each `turn`."""
    figures: dict[tuple[str, int], dict[str, float]] = {}
    http = http_client.InferenceServerClient(server.url.removeprefix("http://"))
    grpc = grpc_client.InferenceServerClient(target)
    async with http, grpc:
        await _check_answers(http, grpc, work)
        ways = [("http", _calls(http, http_client, work)), ("grpc", _calls(grpc, grpc_client, work))]
        ways.append(("grpc stream", _stream(grpc, work)))
        for concurrency in CONCURRENCIES:
            for index in range(len(ways)):
                way, ask = ways[(index + turn) % len(ways)]
                await ask(WARM_UP_SECONDS, concurrency)
                before, began = server.cpu_seconds(), time.perf_counter()
                took = await ask(seconds, concurrency)
                elapsed = time.perf_counter() - began
                used = sum(cpu - before.get(process, 0.0) for process, cpu in server.cpu_seconds().items())
                p50, p99 = np.percentile(took, [50, 99]) * 1e3
                cell = figures[way, concurrency] = {
                    "requests_per_second": len(took) / elapsed,
                    "p50_ms": float(p50),
                    "p99_ms": float(p99),
                    "cpu_us_per_request": 1e6 * used / len(took),
                }
                print(work, way, concurrency, {key: round(value, 2) for key, value in cell.items()}, flush=True)  # noqa: T201
    return figures


async def _check_answers(http: Any, grpc: Any, work: str) -> None:
    """Raise AssertionError unless both protocols give the same outputs for a work."""
    model = WORKS[work][0]
    over_http = await http.infer(model, _inputs(http_client, work))
    over_grpc = await grpc.infer(model, _inputs(grpc_client, work))
    for output in over_http.get_response()["outputs"]:
        np.testing.assert_array_equal(over_grpc.as_numpy(output["name"]), over_http.as_numpy(output["name"]))


def _inputs(client: Any, work: str) -> list[Any]:
    """Return the inputs of a work as those of a module of tritonclient."""
    post = tensor_request(work)
    _, arrays = parse_infer(post.body, int(post.headers[HEADER_LENGTH]))
    return [
        client.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype)).set_data_from_numpy(array)
        for name, array in arrays.items()
    ]


def _calls(client: Any, module: Any, work: str) -> Ask:
    inputs, model = _inputs(module, work), WORKS[work][0]

    async def ask(seconds: float, concurrency: int) -> list[float]:
        took: list[float] = []
        end = time.perf_counter() + seconds

        async def send() -> None:
            while (began := time.perf_counter()) < end:
                await client.infer(model, inputs)
                took.append(time.perf_counter() - began)

        await asyncio.gather(*(send() for _ in range(concurrency)))
        return took

    return ask


def _stream(client: Any, work: str) -> Ask:
    inputs, model = _inputs(grpc_client, work), WORKS[work][0]

    async def ask(seconds: float, concurrency: int) -> list[float]:
        took: list[float] = []
        sent: list[float] = []
        end, room = time.perf_counter() + seconds, asyncio.Semaphore(concurrency)

        async def requests() -> AsyncIterator[dict[str, Any]]:
            while time.perf_counter() < end:
                await room.acquire()
                sent.append(time.perf_counter())
                yield {"model_name": model, "inputs": inputs}

        async for _, error in client.stream_infer(requests()):
            assert error is None, error
            took.append(time.perf_counter() - sent[len(took)])
            room.release()
        return took

    return ask


def _ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rate of each way over that of HTTP, and the same of the server's CPU time."""
    http = {(row["work"], row["concurrency"]): row for row in rows if row["way"] == "http"}
    return [
        {key: row[key] for key in ("work", "way", "concurrency")}
        | {
            f"{name}_over_http": round(row[name] / http[row["work"], row["concurrency"]][name], 3)
            for name in ("requests_per_second", "cpu_us_per_request")
        }
        for row in rows
        if row["way"] != "http"
    ]


if __name__ == "__main__":
    main()
