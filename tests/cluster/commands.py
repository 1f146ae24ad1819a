"""Commands of `zorse` that are stopped by a signal, and what is left of them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import httpx
import numpy as np
import onnx
import psutil
import pytest
import yaml

from serving.ports import free_port
from tests.cluster.toys import toy
from tests.e2e.test_path import painter
from tests.serving.tiny import inverter_manifest, slow_graph, write
from trainer.config_files import find_config
from zorse_common.image_writer import encode

Target = Literal["process", "group"]
NEVER = 10**6
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SLOW_SIDE = 256
"""The height and width of an image that the slow model works on for some seconds."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, its result, and times in seconds after the signal."""

    command: str
    signal: str
    to: str
    code: int
    result: str
    seconds: float
    """Seconds until the command had ended."""
    seconds_to_clean: float
    """Seconds until all its processes had ended and its temporary files were gone."""


@contextmanager
def none_ignored() -> Iterator[None]:
    """Restore the default signal handlers for programs started in the block: a shell's `&` makes them ignore SIGINT."""
    numbers = [number for number in STOPS if signal.getsignal(number) is signal.SIG_IGN]
    for number in numbers:
        # A new program gets the default action for what its parent handles.
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


class Started:
    """A running command in a separate process group and folder."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.folder = folder
        self._temporary = folder / "tmp"
        self._temporary.mkdir(parents=True)
        self._log = folder / "log"
        with self._log.open("wb") as log, none_ignored():
            self.process = subprocess.Popen(
                [sys.executable, "-m", "zorse", *words],
                stdout=log,
                stderr=log,
                cwd=folder,
                env=os.environ | self._environment(),
                start_new_session=True,
            )
        self._sessions: set[int] = set()

    def _environment(self) -> dict[str, str]:
        # What torch has compiled is meant to stay.
        return {"TMPDIR": str(self._temporary), "TORCHINDUCTOR_CACHE_DIR": str(self.folder / "compiled")}

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_until(self, done: Callable[[], bool], *, running: bool = True) -> None:
        """Wait until `done`, while the command is `running` or whether it is or not."""
        for _ in range(3000):
            if done():
                return
            assert not running or self.process.poll() is None, self.log
            try:
                # Only a wait that ends early where the process does.
                self.process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
        pytest.fail(f"still waiting; left: {self.left()}\n{self.log}")

    def send(self, number: signal.Signals, to: Target) -> None:
        """Send a signal to the command, or to its whole process group."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self._sessions = {self.process.pid} | {os.getsid(child.pid) for child in children if child.is_running()}
        (os.killpg if to == "group" else os.kill)(self.process.pid, number)

    def left(self) -> list[str]:
        """The processes of the command that still run, and its temporary files."""
        processes = [process.info for process in psutil.process_iter(["pid", "name"]) if self._is_ours(process.pid)]
        places = [path for session in self._sessions for path in Path("/tmp").glob(f"zorse-{session}-*")]
        return [str(info) for info in processes] + [str(path) for path in [*places, *self._temporary.iterdir()]]

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.getsid(pid) in self._sessions and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except (OSError, psutil.Error):
            return False

    def end(self) -> None:
        """Kill the processes that a failed test left behind."""
        if self.process.poll() is None:
            self.send(signal.SIGKILL, "group")
            self.process.wait()


@contextmanager
def started(folder: Path, *words: str) -> Iterator[Started]:
    """Run `zorse` with `words`, and end it afterwards."""
    command = Started(folder, *words)
    try:
        yield command
    finally:
        command.end()


Result = Callable[[], str]


@contextmanager
def train(folder: Path) -> Iterator[tuple[Started, Result]]:
    """A run in progress, which writes nothing before its end."""
    run, file = folder / "run", folder / "toy.yaml"
    folder.mkdir()
    keys = {"total_images": NEVER, "checkpoint_images": NEVER, "workers": 1}
    file.write_text(yaml.safe_dump(toy("gan", run, **keys)))
    with started(folder, "train", str(file)) as command:
        command.wait_until((run / "metrics").exists)

        def result() -> str:
            state = json.loads((run / "run.json").read_text())["state"]
            return f"{state}, {len(list((run / 'checkpoints').iterdir()))} checkpoint"

        yield command, result


@contextmanager
def serve(folder: Path, options: tuple[str, ...] = ()) -> Iterator[tuple[Started, Result]]:
    """A server with a request in flight."""
    write(folder / "repository", slow_graph(), inverter_manifest("slow"))
    port = free_port()
    words = ("serve", str(folder / "repository"), "--port", str(port))
    with started(folder, *words, *options) as command:
        command.wait_until(lambda: _is_ready(port))
        request = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = encode(np.zeros((_SLOW_SIDE, _SLOW_SIDE, 3), np.uint8))
        request.request("POST", "/v2/models/slow/translate", body, {"Content-Type": "image/png"})
        yield command, lambda: f"request answered {request.getresponse().status}"
        request.close()


def _is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready").is_success
    except httpx.TransportError:
        return False


@contextmanager
def export(folder: Path) -> Iterator[tuple[Started, Result]]:
    """An export that is being proved."""
    folder.mkdir()
    onnx.save(painter(), folder / "painter.onnx")
    words = ("painter.onnx", "--to", "repository", "--from", "onnx", "--input-range", "0", "255")
    with started(folder, "export", *words) as command:
        command.wait_until(lambda: "proving it" in command.log)
        repository = folder / "repository"
        yield command, lambda: f"{len(list(repository.rglob('*')))} files published"


@contextmanager
def demo(folder: Path, until: str, images: int | None = None) -> Iterator[tuple[Started, Result]]:
    """The demo, once the file `until` in its folder has content. It trains on `images` if that is set."""
    if images is not None:
        folder.mkdir()
        for name in ("digits", "stripes"):
            config = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
            config["run"]["total_images"] = images
            # A file of the working folder goes before the shipped config of that name.
            (folder / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    with started(folder, "demo") as command:
        file = folder / "runs" / "demo" / until
        command.wait_until(lambda: file.exists() and file.stat().st_size > 0)
        yield command, lambda: "-"


def outcome(name: str, command: Started, result: Result, number: signal.Signals, to: Target) -> Outcome:
    """Send the signal, wait until nothing is left of the command, and return how it ended."""
    start = time.monotonic()
    command.send(number, to)
    code = command.process.wait()
    ended = time.monotonic()
    command.wait_until(lambda: not command.left(), running=False)
    clean = time.monotonic()
    return Outcome(name, number.name, to, code, result(), round(ended - start, 1), round(clean - start, 1))


def write_table(outcomes: list[Outcome], folder: Path) -> str:
    """Write `signals.json` and `signals.md`, and return the latter's text."""
    (folder / "signals.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=2) + "\n")
    titles = ["command", "signal", "sent to", "exit code", "result", "ended after", "nothing left after"]
    rows = [
        [o.command, o.signal, o.to, str(o.code), o.result, f"{o.seconds} s", f"{o.seconds_to_clean} s"]
        for o in outcomes
    ]
    lines = [titles, ["---"] * len(titles), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (folder / "signals.md").write_text(text)
    return text
