"""Several commands and other Rays on one machine do not disturb each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from serving.ports import free_port
from tests.cluster.commands import Started, started
from tests.cluster.toys import toy
from tests.serving.tiny import generator_graph, generator_manifest, write

pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(900)]
POLLS = 200
"""How often each server is asked while it starts."""

OTHER = """
import ray
while True:
    ray.init("local", num_cpus=1, log_to_driver=False, configure_logging=False)
    assert ray.get(ray.remote(lambda: 1).remote()) == 1
    ray.shutdown()
"""


@contextmanager
def _others(home: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run two programs that repeatedly start and stop other Rays in Ray's usual folder."""
    others = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", OTHER], env=os.environ | {"HOME": str(home)})
        for _ in range(2)
    ]
    try:
        yield others
    finally:
        for other in others:
            other.send_signal(signal.SIGTERM)
        for other in others:
            other.wait()


def test_runs_do_not_disturb_each_other_or_other_rays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # None of them finds a token there, and all make one.
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    with ExitStack() as stack:
        others = stack.enter_context(_others(tmp_path / "home"))
        runs: list[Started] = []
        for name in ("one", "two", "three"):
            file = tmp_path / f"{name}.yaml"
            file.write_text(yaml.safe_dump(toy("gan", tmp_path / f"run-{name}", total_images=64, workers=1)))
            runs.append(stack.enter_context(started(tmp_path / name, "train", str(file))))
        for run in runs:
            assert run.process.wait() == 0, run.log
        assert [other.poll() for other in others] == [None, None]
    states = [json.loads((tmp_path / f"run-{name}" / "run.json").read_text())["state"] for name in ("one", "two")]
    assert states == ["finished", "finished"]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="default"),
        pytest.param(("--proxy", "ray"), id="ray"),
    ],
)
def test_servers_answer_only_with_their_models(options: tuple[str, ...], tmp_path: Path) -> None:
    names = ("one", "two")
    with ExitStack() as stack:
        servers: dict[str, tuple[Started, int]] = {}
        for name in names:
            write(tmp_path / f"repository-{name}", generator_graph(), generator_manifest(name))
            port = free_port()
            words = ("serve", str(tmp_path / f"repository-{name}"), "--port", str(port), *options)
            servers[name] = stack.enter_context(started(tmp_path / name, *words)), port
        seen: dict[tuple[str, str], list[int | None]] = {}

        def ask() -> None:
            for name, (_, port) in servers.items():
                for model in names:
                    seen.setdefault((name, model), []).append(_status(port, model))

        def have_started() -> bool:
            ask()
            return len(seen["one", "one"]) >= POLLS and all(200 in seen[name, name] for name in names)

        while not have_started():
            assert all(server.process.poll() is None for server, _ in servers.values())
        one, two = servers["one"], servers["two"]
        one[0].send(signal.SIGTERM, "group")
        one[0].wait_until(lambda: ask() or one[0].process.poll() is not None, running=False)
        assert one[0].process.returncode == 0
        assert _status(two[1], "two") == 200
        assert 200 not in seen["one", "two"] + seen["two", "one"]
        # Until a server has a model it is unavailable, and then it knows that it has no other.
        assert {*seen["one", "two"], *seen["two", "one"]} <= {None, 503, 404}


def _status(port: int, model: str) -> int | None:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/models/{model}", timeout=60).status_code
    except httpx.TransportError:
        return None
