"""Measures what many models in one repository cost: the seconds until a server is ready, and its memory.

    python -m benchmarks.serve_models [--models 1,10,30]

For each number of models a server of as many tiny generators is started as by default. Once it is ready, each process
says how much memory it has (PSS: pages that processes share count in parts, RSS: they count for each) and how much CPU
time it has used. Then, with `--follow`, models are added one by one and removed again while clients send requests to
the others. Writes `benchmarks/results/serve_models.json`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.report import write_report
from serving.client import Client
from serving.errors import ServingError
from serving.ports import free_port
from serving.retrying import ONCE
from tests.serving.tiny import generator_graph, generator_manifest, write

ROLES = (
    ("ServeReplica:zorse.", "replica of a model"),
    ("ServeReplica:zorse:", "gateway"),
    ("ServeController", "Ray Serve's controller"),
    ("HAProxyManager", "Ray Serve's manager of HAProxy"),
    ("ProxyActor", "Ray Serve's proxy"),
    ("haproxy.cfg", "HAProxy"),
    ("raylet/raylet", "raylet"),
    ("gcs_server", "Ray's global control store"),
    ("zorse serve", "zorse"),
)
"""Words of the command lines of processes, and what they are."""
OTHERS = "other processes of Ray"
CLIENTS, COMING, LIMIT_SECONDS = 4, 5, 600


def main() -> None:
    """Measure each number of models, and models that come and go, and write the result."""
    parser = argparse.ArgumentParser(description="Measure servers of many models.")
    parser.add_argument("--models", default="1,10,30")
    counts = [int(count) for count in parser.parse_args().models.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        servers = [_start(Path(folder) / str(count), count) for count in counts]
        changes = _come_and_go(Path(folder) / "changes", min(counts[-1], 10))
    first, last = servers[0], servers[-1]
    more = max(last["models"] - first["models"], 1)
    each = {
        "seconds": round((last["seconds"] - first["seconds"]) / more, 2),
        "pss_mib": round((last["pss_mib"] - first["pss_mib"]) / more, 1),
        "cpu_seconds": round((last["cpu_seconds"] - first["cpu_seconds"]) / more, 2),
    }
    write_report("serve_models", {"servers": servers, "a_model_more": each, "models_that_come_and_go": changes})


def _start(folder: Path, count: int) -> dict[str, Any]:
    """Start a server of `count` models, and return its seconds and memory once it is ready."""
    for number in range(count):
        _publish(folder, f"model-{number:02}")
    with _running(folder) as (process, client, seconds):
        assert len(client.models()) == count
        return {"models": count, "seconds": round(seconds, 1), **_processes(process)}


def _come_and_go(folder: Path, count: int) -> dict[str, Any]:
    """Add models to a server of `count` models that follows its repository, and remove them, under load."""
    for number in range(count):
        _publish(folder, f"model-{number:02}")
    come, gone, names = [], [], [f"model-{number:02}" for number in range(count)]
    with (
        _running(folder, "--follow", "--follow-interval", "0.5") as (_, client, _),
        _load(client, names) as outcomes,
    ):
        for name in (f"new-{number:02}" for number in range(COMING)):
            began = time.monotonic()
            _publish(folder, name)
            _wait(lambda name=name: name in _names(client))
            come.append(time.monotonic() - began)
        for name in (f"new-{number:02}" for number in range(COMING)):
            began = time.monotonic()
            shutil.rmtree(folder / name)
            _wait(lambda name=name: name not in _names(client))
            gone.append(time.monotonic() - began)
    failed = [outcome for outcome in outcomes if outcome is not None]
    return {
        "models": count,
        "added_and_removed": COMING,
        "seconds_until_listed": round(statistics.median(come), 1),
        "seconds_until_gone": round(statistics.median(gone), 1),
        "requests": len(outcomes),
        "failed": len(failed),
        "first_failures": failed[:3],
    }


def _publish(repository: Path, name: str) -> None:
    """Publish a tiny generator at once."""
    with tempfile.TemporaryDirectory(dir=repository.parent) as staged:
        write(Path(staged), generator_graph(), generator_manifest(name))
        repository.mkdir(exist_ok=True)
        (Path(staged) / name).rename(repository / name)


@contextmanager
def _running(repository: Path, *options: str) -> Iterator[tuple[psutil.Process, Client, float]]:
    """Run a server, and yield its process, a client that repeats nothing, and the seconds until it was ready."""
    port, began = free_port(), time.monotonic()
    words = [sys.executable, "-m", "zorse", "serve", str(repository), "--port", str(port), *options]
    log = repository.parent / f"{repository.name}.log"
    with log.open("wb") as file, subprocess.Popen(words, stdout=file, stderr=file) as process:
        try:
            with Client(f"http://127.0.0.1:{port}", retry=ONCE) as client:
                _wait(lambda: client.ready() or process.poll() is not None)
                if process.poll() is not None:
                    sys.exit(log.read_text(encoding="utf-8"))
                yield psutil.Process(process.pid), client, time.monotonic() - began
        finally:
            process.terminate()


@contextmanager
def _load(client: Client, models: list[str]) -> Iterator[list[str | None]]:
    """Send requests to all models while the block runs, and yield the errors, or None, of all requests."""
    ended, outcomes = threading.Event(), []

    def send(first: int) -> None:
        turn = first
        while not ended.is_set():
            try:
                client.generate(models[turn % len(models)], n=1)
                outcomes.append(None)
            except ServingError as error:
                outcomes.append(str(error))
            turn += 1

    threads = [threading.Thread(target=send, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield outcomes
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _processes(server: psutil.Process) -> dict[str, Any]:
    """Return the memory and CPU time of the server's processes, in all and by what they are."""
    rows: dict[str, list[tuple[int, int, float]]] = defaultdict(list)
    for process in [server, *server.children(recursive=True)]:
        try:
            line, memory, times = " ".join(process.cmdline()), process.memory_full_info(), process.cpu_times()
        except psutil.Error:
            continue
        role = next((role for word, role in ROLES if word in line), OTHERS)
        rows[role].append((memory.pss, memory.rss, times.user + times.system))
    return {
        "pss_mib": round(sum(pss for each in rows.values() for pss, _, _ in each) / 2**20),
        "cpu_seconds": round(sum(cpu for each in rows.values() for _, _, cpu in each), 1),
        "processes": [
            {
                "process": role,
                "number": len(each),
                "pss_mib": round(statistics.mean(pss for pss, _, _ in each) / 2**20, 1),
                "rss_mib": round(statistics.mean(rss for _, rss, _ in each) / 2**20, 1),
                "cpu_seconds": round(statistics.mean(cpu for _, _, cpu in each), 2),
            }
            for role, each in sorted(rows.items(), key=lambda row: -sum(pss for pss, _, _ in row[1]))
        ],
    }


def _names(client: Client) -> list[str]:
    return [str(model["name"]) for model in client.models()]


def _wait(done: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not done():
        if time.monotonic() > end:
            sys.exit(f"nothing has changed for {LIMIT_SECONDS} s")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
