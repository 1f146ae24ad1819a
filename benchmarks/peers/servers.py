"""The servers that are compared: how each is started and asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

import httpx
import numpy as np
import psutil

from benchmarks.peers.environments import environment
from benchmarks.peers.models import DCGAN, RESNET, SIZE
from serving.open_inference import HEADER_LENGTH, pack
from serving.ports import free_port
from zorse_common.image_writer import encode

HERE = Path(__file__).parent
START_SECONDS, STOP_SECONDS, ANSWER_SECONDS = 120, 40, 120
WORKS: dict[str, tuple[str, str]] = {
    "dcgan32 generate": (DCGAN, "generate"),
    "dcgan32 infer": (DCGAN, "infer"),
    "resnet9 translate": (RESNET, "translate"),
    "resnet9 infer": (RESNET, "infer"),
}
"""The model and the verb of each work."""


class ServerFailedError(Exception):
    """A server does not start or answers wrongly; the text says why."""


@dataclass(frozen=True)
class Post:
    """One POST request."""

    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Server:
    """A server that is compared.

    Attributes:
        environment: the name of its environment, or None for this one.
        command: makes the command from the programs' folder, the port, a new folder and the work.
        post: makes the request of a work.
        ready: the path that answers 200 once the server can work.
        together: whether one start serves all works; else each work has a server of its own.
        note: how it differs from the others.
    """

    name: str
    environment: str | None
    command: Callable[[Path, int, Path, str], list[str]]
    post: Callable[[str], Post]
    ready: str
    together: bool
    note: str


@cache
def tensor_request(work: str, *, binary: bool = True) -> Post:
    """Return the KServe v2 request of an "infer" work: one latent, or one image."""
    model, _ = WORKS[work]
    draw = np.random.default_rng(0)
    source = draw.integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    feeds = {"latent": draw.standard_normal((1, 64), np.float32)} if model == DCGAN else {"source": source}
    extra = {"parameters": {"binary_data_output": True}} if binary else {}
    body, headers = pack("inputs", feeds, dict.fromkeys(feeds, binary), extra)
    return Post(f"/v2/models/{model}/infer", headers, body)


@cache
def verb_request(work: str) -> Post:
    """Return the request of an image verb: JSON for `generate`, a PNG for `translate`."""
    model, verb = WORKS[work]
    if model == DCGAN:
        body = json.dumps({"n": 1, "seed": 0}).encode()
        return Post(f"/v2/models/{model}/{verb}", {"Content-Type": "application/json"}, body)
    coarse = np.random.default_rng(0).integers(0, 256, (SIZE // 8, SIZE // 8, 3), dtype=np.uint8)
    image = coarse.repeat(8, 0).repeat(8, 1)
    return Post(f"/v2/models/{model}/{verb}", {"Content-Type": "application/octet-stream"}, encode(image, "png"))


def _kserve(work: str) -> Post:
    return tensor_request(work) if WORKS[work][1] == "infer" else verb_request(work)


def _raw_bytes(paths: Mapping[bool, str], work: str) -> Post:
    """Return the request of servers that see no headers: the length of the JSON comes first in the body of `infer`."""
    headers, infer = {"Content-Type": "application/octet-stream"}, WORKS[work][1] == "infer"
    if not infer:
        return Post(paths[infer], headers, verb_request(work).body)
    post = tensor_request(work)
    return Post(paths[infer], headers, int(post.headers[HEADER_LENGTH]).to_bytes(4, "little") + post.body)


def _mlserver_post(work: str) -> Post:
    if WORKS[work][1] == "infer":
        return tensor_request(work, binary=False)
    return Post("/verb", {"Content-Type": "application/octet-stream"}, verb_request(work).body)


def _zorse(programs: Path, port: int, folder: Path, work: str) -> list[str]:
    return [sys.executable, "-m", "zorse", "serve", os.environ["PEER_REPOSITORY"], "--port", str(port)]


def _fastapi(programs: Path, port: int, folder: Path, work: str) -> list[str]:
    return [str(programs / "python"), str(HERE / "fastapi_server.py"), str(port)]


def _litserve(programs: Path, port: int, folder: Path, work: str) -> list[str]:
    model, verb = WORKS[work]
    kind = "infer" if verb == "infer" else "verb"
    return [str(programs / "python"), str(HERE / "litserve_server.py"), str(port), model, kind]


def _bentoml(programs: Path, port: int, folder: Path, work: str) -> list[str]:
    service = "Small" if WORKS[work][0] == DCGAN else "Large"
    target = f"bentoml_server:{service}"
    return [str(programs / "bentoml"), "serve", target, "--port", str(port), "--working-dir", str(HERE)]


def _mlserver(programs: Path, port: int, folder: Path, work: str) -> list[str]:
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "access_log": False, "debug": False}
    model = {"name": WORKS[work][0], "implementation": "mlserver_runtime.Runtime"}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return [str(programs / "mlserver"), "start", str(folder)]


SERVERS = (
    Server(
        "zorse", None, _zorse, _kserve, "/v2/health/ready", True, "zorse serve REPOSITORY, all defaults, two models"
    ),
    Server("fastapi", "fastapi", _fastapi, _kserve, "/ready", True, "hand-written, one process, two models"),
    Server(
        "litserve",
        "litserve",
        _litserve,
        lambda work: _raw_bytes({True: "/predict", False: "/predict"}, work),
        "/health",
        False,
        "raw bytes, one worker, one model",
    ),
    Server(
        "bentoml",
        "bentoml",
        _bentoml,
        lambda work: _raw_bytes({True: "/infer", False: "/verb"}, work),
        "/readyz",
        False,
        "raw bytes, one worker, one model",
    ),
    Server(
        "mlserver",
        "mlserver",
        _mlserver,
        _mlserver_post,
        "/v2/health/ready",
        False,
        "inference in the server's process, one model; tensors as JSON, for its REST has no binary ones",
    ),
)


def stop_servers_on_sigterm() -> None:
    """Make SIGTERM raise SystemExit, so that the server that runs is stopped."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@dataclass(frozen=True)
class Running:
    """A server that runs: its URL, and the process that was started."""

    url: str
    process: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """Return the processes of the server that live now."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> dict[psutil.Process, float]:
        """Return the CPU time that each process has used."""
        used = {}
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                used[process] = float(times.user + times.system)
        return used


@contextmanager
def running(server: Server, repository: Path, work: str) -> Iterator[Running]:
    """Start `server`, yield it once it can do `work`, and stop it.

    Raises:
        EnvironmentFailedError, ServerFailedError: it has no environment, does not start, or answers `work` wrongly.
    """
    os.environ["PEER_REPOSITORY"] = str(repository.resolve())
    programs = environment(server.environment) if server.environment else Path()
    with tempfile.TemporaryDirectory(prefix="zorse-peer-") as folder, (Path(folder) / "log").open("w+b") as log:
        port = free_port()
        command = server.command(programs, port, Path(folder), work)
        paths = os.pathsep.join([str(HERE), str(HERE.parents[1])] if server.environment is None else [str(HERE)])
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": paths},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_ready(url + server.ready, process, log)
            check_answer(url, server.post(work), work)
            yield Running(url, psutil.Process(process.pid))
        finally:
            _stop(process)


def check_answer(url: str, post: Post, work: str) -> None:
    """Check that `work` is answered with an image or a tensor.

    Raises:
        ServerFailedError: it is not.
    """
    try:
        answer = httpx.post(
            url + post.path, content=post.body, headers=dict(post.headers), timeout=ANSWER_SECONDS, trust_env=False
        )
    except httpx.RequestError as error:
        raise ServerFailedError(f"{post.path} is not answered: {error!r}") from error
    pixels = 32 * 32 if WORKS[work][0] == DCGAN else SIZE * SIZE * 3
    is_answer = len(answer.content) > pixels if WORKS[work][1] == "infer" else answer.content[1:4] == b"PNG"
    if answer.status_code != 200 or not is_answer:
        raise ServerFailedError(f"{post.path} answers {answer.status_code} {answer.content[:200]!r}")


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.RequestError:
            pass  # not yet
        if process.poll() is not None or time.monotonic() > deadline:
            log.seek(0)
            raise ServerFailedError(f"it does not start: {log.read().decode(errors='replace').strip()[-500:]}")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server, and what is left of its process group."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
