"""Compares `zorse serve` with other servers on the same work, models, client and cores.

    python -m benchmarks.serve_peers [--rounds 3] [--seconds 3] [--servers zorse,fastapi] [--works "dcgan32 infer"]

The servers run one after another in every round, in an order that rotates; rows are medians of the rounds. wrk posts
one request again and again. `cpu_us_per_request` is the CPU time of all processes of the server. Peers have
environments of their own, which are made on the first run. The bare onnxruntime loop, without a server, is the row
"onnxruntime". Writes `benchmarks/results/serve_peers.json`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import ENVIRONMENTS, PINS, EnvironmentFailedError, environment, versions
from benchmarks.peers.models import DCGAN, export_models
from benchmarks.peers.servers import (
    HERE,
    SERVERS,
    WORKS,
    Server,
    ServerFailedError,
    check_answer,
    running,
    stop_servers_on_sigterm,
)
from benchmarks.peers.wrk import run_wrk, warm_up
from benchmarks.report import write_report

CONCURRENCIES = (1, 8, 64)
BARE = "onnxruntime"
SLOW_FACTORS = {1: 2, 8: 2, 64: 6}
"""How many times as long the slow model is measured. At 64 a request takes seconds, and wrk drops what it cuts."""
Cell = tuple[str, str, int]
"""Server, work and concurrency."""


def main() -> None:
    """Measure every cell in every round and write the result."""
    stop_servers_on_sigterm()
    arguments = _parse_arguments()
    names, works = arguments.servers.split(","), arguments.works.split(",")
    servers = [server for server in SERVERS if server.name in names]
    repository = export_models(ENVIRONMENTS / "repository")
    cells: dict[Cell, list[dict[str, Any]]] = {}
    failures: dict[tuple[str, str], str] = {}
    os.environ["PEER_REPOSITORY"] = str(repository.resolve())
    for number in range(arguments.rounds):
        turn = number % max(len(servers), 1)
        for server in servers[turn:] + servers[:turn]:
            for group in [works] if server.together else [[work] for work in works]:
                try:
                    _measure_server(server, group, arguments, cells)
                except (EnvironmentFailedError, ServerFailedError) as error:
                    failures |= {(server.name, work): str(error) for work in group}
        if BARE in names:
            _measure_bare(works, arguments.seconds, cells)
    _write(cells, failures, arguments)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare zorse serve with other servers.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="seconds of a cell of the fast model")
    parser.add_argument("--servers", default=",".join([*(server.name for server in SERVERS), BARE]))
    parser.add_argument("--works", default=",".join(WORKS))
    parser.add_argument("--name", default="serve_peers", help="the name of the result")
    return parser.parse_args()


def _measure_server(
    server: Server, works: Sequence[str], arguments: argparse.Namespace, cells: dict[Cell, list[dict[str, Any]]]
) -> None:
    with running(server, Path(os.environ["PEER_REPOSITORY"]), works[0]) as started:
        url = started.url
        for work in works:
            post = server.post(work)
            check_answer(url, post, work)
            for concurrency in CONCURRENCIES:
                factor = 1 if WORKS[work][0] == DCGAN else SLOW_FACTORS[concurrency]
                warm_up(url, post, concurrency)
                # Most servers still work on what wrk cut off when it ended; queues are first in, first out.
                check_answer(url, post, work)
                before = started.cpu_seconds()
                figures = run_wrk(url, post, concurrency, arguments.seconds * factor)
                used = sum(seconds - before.get(process, 0.0) for process, seconds in started.cpu_seconds().items())
                figures["cpu_us_per_request"] = 1e6 * used / figures["requests"]
                cells.setdefault((server.name, work, concurrency), []).append(figures)
                shown = {key: round(value, 2) for key, value in figures.items()}
                print(server.name, work, concurrency, shown, flush=True)  # noqa: T201
                check_answer(url, post, work)


def _measure_bare(works: Sequence[str], seconds: int, cells: dict[Cell, list[dict[str, Any]]]) -> None:
    """Measure the loop with every number of threads; the best is the row. It stands for the model's both works."""
    python = environment("fastapi") / "python"
    for work in works:
        model, verb = WORKS[work]
        if verb != "infer":
            continue
        rates = []
        for threads in range(1, (os.cpu_count() or 1) + 1):
            command = [str(python), str(HERE / "ort_loop.py"), model, str(threads), str(seconds)]
            rates.append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        milliseconds = 1000 / max(rates)
        figures = {"requests_per_second": max(rates), "p50_ms": milliseconds, "p99_ms": milliseconds}
        cells.setdefault((BARE, work, 1), []).append(figures)
        print(BARE, work, [round(rate, 2) for rate in rates], flush=True)  # noqa: T201


def _write(
    cells: dict[Cell, list[dict[str, Any]]], failures: dict[tuple[str, str], str], arguments: argparse.Namespace
) -> None:
    rows: list[dict[str, Any]] = []
    for (server, work, concurrency), rounds in cells.items():
        medians = {key: round(statistics.median(figures[key] for figures in rounds), 3) for key in rounds[0]}
        rows.append({"server": server, "work": work, "concurrency": concurrency, **medians})
    rows += [{"server": server, "work": work, "failed": why} for (server, work), why in failures.items()]
    rates = {
        (row["server"], row["work"], row["concurrency"]): row["requests_per_second"] for row in rows if "p50_ms" in row
    }
    ratios = [
        {
            "server": server,
            "work": work,
            "concurrency": concurrency,
            "zorse_over_server": round(rates["zorse", work, concurrency] / rate, 3),
        }
        for (server, work, concurrency), rate in rates.items()
        if server != "zorse" and rate and ("zorse", work, concurrency) in rates
    ]
    spread = [
        {
            "server": server,
            "work": work,
            "concurrency": concurrency,
            "requests_per_second": [round(figures["requests_per_second"], 2) for figures in rounds],
        }
        for (server, work, concurrency), rounds in cells.items()
    ]
    notes = {server.name: server.note for server in SERVERS} | {
        BARE: "a loop without a server, the best number of threads"
    }
    write_report(
        arguments.name,
        {
            "client": "wrk, one thread, on the same cores",
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "servers": {
                name: {"note": note, "versions": versions(name) if name in PINS else {}} for name, note in notes.items()
            },
            "rows": rows,
            "ratios": ratios,
            "every_round": spread,
        },
    )


if __name__ == "__main__":
    main()
