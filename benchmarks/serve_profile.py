"""Says where the time of a request goes: CPU microseconds by process, and of the model's replica by area of code.

    python -m benchmarks.serve_profile [--seconds 20] [--concurrency 8] [--works "dcgan32 infer"]

zorse is started as by default and loaded with wrk. The CPU time of every process of the server is read before and
after; during the load py-spy samples the replica's stacks, compiled functions included. The area of a sample is that of
its innermost function whose file belongs to one. Writes `benchmarks/results/serve_profile.json`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers.environments import ENVIRONMENTS, EnvironmentFailedError, environment
from benchmarks.peers.models import export_models
from benchmarks.peers.servers import SERVERS, WORKS, Running, ServerFailedError, running, stop_servers_on_sigterm
from benchmarks.peers.wrk import run_wrk, warm_up
from benchmarks.report import write_report

SAMPLES_PER_SECOND = 100
WAITING = re.compile(
    r"^(epoll_p?wait|poll|select|nanosleep|pthread_cond_\w+|_raylet_check_signals|PyThread_acquire_lock\w*)$"
)
"""Functions in which a thread waits. Stacks with one of them in their `WAITING_DEPTH` innermost frames do not count."""
WAITING_DEPTH = 3
AREAS = (
    (r"^onnxruntime/", "onnxruntime"),
    (r"^(uvicorn|httptools|h11)/|^(parser|llhttp|api|http)\.c$", "uvicorn and httptools"),
    (r"^uvloop/|^(loop|stream|core|linux|handle|tcp|pipe|async|timer)\.c$", "uvloop and its system calls"),
    (r"^(asyncio/|_asynciomodule\.c)", "asyncio"),
    (r"^(fastapi|starlette|pydantic|pydantic_core|anyio)/", "FastAPI and pydantic"),
    (r"^PIL/", "Pillow"),
    (r"^numpy/", "numpy"),
    (r"^prometheus_client/", "prometheus_client"),
    (r"^(ray|grpc)/", "Ray"),
)
"""Patterns of file names, and the areas of their functions. Modules of this project are areas of their own."""
OWN = re.compile(r"\b(serving|zorse_common|export)/([\w/]+)\.py")
FRAME = re.compile(r"^(?P<function>.+) \((?P<file>.+?)(:\d+)?\)$")
PROCESSES = (
    ("ServeReplica:zorse.{model}:", "replica of the model"),
    ("ServeReplica", "other replicas and the gateway"),
    ("haproxy", "HAProxy"),
    ("ServeController", "Ray Serve's controller"),
    ("raylet", "raylet"),
    ("gcs_server", "Ray's global control store"),
)
OTHERS = "other processes of the server"


def main() -> None:
    """Profile every work and write the result."""
    stop_servers_on_sigterm()
    parser = argparse.ArgumentParser(description="Profile zorse serve under load.")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--works", default=",".join(WORKS))
    arguments = parser.parse_args()
    repository = export_models(ENVIRONMENTS / "repository")
    works = arguments.works.split(",")
    results: list[dict[str, Any]] = []
    try:
        with running(SERVERS[0], repository, works[0]) as server:
            for work in works:
                results.append(_profile(server, work, arguments.concurrency, arguments.seconds))  # noqa: PERF401
    except (EnvironmentFailedError, ServerFailedError) as error:
        results.append({"failed": str(error)})
    write_report("serve_profile", {"concurrency": arguments.concurrency, "works": results})


def _profile(server: Running, work: str, concurrency: int, seconds: int) -> dict[str, Any]:
    """Return the figures of one work: first without py-spy, which slows the replica, then with it."""
    url, (model, _) = server.url, WORKS[work]
    post = SERVERS[0].post(work)
    warm_up(url, post, concurrency)
    processes = _named_processes(server, model)
    before = server.cpu_seconds()
    figures = run_wrk(url, post, concurrency, seconds)
    by_process: Counter[str] = Counter()
    for process, used in server.cpu_seconds().items():
        name = processes.get(process, OTHERS)
        by_process[name] += 1e6 * (used - before.get(process, 0.0)) / figures["requests"]
    replica = next(process.pid for process, name in processes.items() if name == PROCESSES[0][1])
    environment("py-spy")  # made before the load starts
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(run_wrk, url, post, concurrency, seconds)
        stacks = _sample(replica, max(seconds - 2, 1))
        load.result()
    samples = area_samples(stacks)
    number = samples.total()
    total = by_process[PROCESSES[0][1]]
    return {
        "work": work,
        "requests_per_second": round(figures["requests_per_second"], 1),
        "cpu_us_per_request": {name: round(value, 1) for name, value in by_process.most_common()},
        "replica": [
            {"area": area, "share": round(count / number, 4), "us_per_request": round(total * count / number, 1)}
            for area, count in samples.most_common()
        ],
        "samples": number,
    }


def _named_processes(server: Running, model: str) -> dict[psutil.Process, str]:
    """Return the server's processes and what each is.

    Raises:
        ServerFailedError: there is no replica of the model.
    """
    named: dict[psutil.Process, str] = {}
    for process in server.processes():
        line = " ".join(process.cmdline())
        known = (name for pattern, name in PROCESSES if pattern.format(model=model) in line)
        named[process] = next(known, OTHERS)
    if PROCESSES[0][1] not in named.values():
        raise ServerFailedError(f"there is no replica of {model}")
    return named


def _sample(pid: int, seconds: int) -> dict[str, int]:
    """Return how often each Python stack of the process was seen, outermost function first."""
    program = environment("py-spy") / "py-spy"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "stacks"
        options = ["--format", "raw", "--rate", str(SAMPLES_PER_SECOND), "--duration", str(seconds), "--native"]
        command = [str(program), "record", "--pid", str(pid), "--output", str(output), *options]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise ServerFailedError(f"py-spy failed: {result.stderr.strip()[-300:]}")
        lines = output.read_text(encoding="utf-8").splitlines()
    return {stack: int(count) for stack, _, count in (line.rpartition(" ") for line in lines)}


def area_samples(stacks: Mapping[str, int]) -> Counter[str]:
    """Return the number of samples of each area in which a thread worked."""
    counts: Counter[str] = Counter()
    for stack, count in stacks.items():
        frames = [FRAME.match(frame) for frame in stack.split(";")]
        known = [(frame["function"], frame["file"]) for frame in frames if frame]
        if not any(WAITING.match(function) for function, _ in known[-WAITING_DEPTH:]):
            counts[_area([file for _, file in known])] += count
    return counts


def _area(files: Sequence[str]) -> str:
    """Return the area of the innermost frame that has one; `files` are those of the frames, the outermost first.

    So the compiled code of libraries counts for the area from which it was called.
    """
    for file in reversed(files):
        if own := OWN.search(file):
            return f"{own[1]}.{own[2].replace('/', '.')}"
        for pattern, area in AREAS:
            if re.search(pattern, file):
                return area
    return "the interpreter"


if __name__ == "__main__":
    main()
