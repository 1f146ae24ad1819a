"""Processes of a server are killed while it changes to another version of a model."""

from __future__ import annotations

import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from serving.ports import free_port
from serving.retrying import RetryPolicy
from tests.cluster.client_load import ClientLoad
from tests.cluster.sockets import command_line
from tests.cluster.test_following import Server, following, publish, roll, serving

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(3000)]

REQUEST = {"verb": "generate", "model": "digits", "n": 1}
VICTIMS = ("new replica", "old replica", "ServeController", "ServeReplica:zorse:gateway", "/haproxy.cfg")


PATIENT = RetryPolicy(attempts=30)
"""On a busy machine it may take long until HAProxy runs again."""


class Killer:
    """Kills a process of the server in the middle of each update: another kind each time."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.kills: list[str] = []

    def __call__(self, version: int) -> None:
        """Kill a process once the update to `version` has begun."""
        before = self._processes("ServeReplica:zorse.digits:")
        self._server.wait_for("update_started", version)
        victim = VICTIMS[len(self.kills) % len(VICTIMS)]
        self.kills.append(victim)
        if victim == "new replica":
            self._server.command.wait_until(lambda: self._has_ended(version) or bool(self._new(before)))
            victims = self._new(before)
        else:
            victims = before if victim == "old replica" else self._processes(victim)
        for process in victims[:1]:
            process.kill()

    def _new(self, before: list[psutil.Process]) -> list[psutil.Process]:
        return [process for process in self._processes("ServeReplica:zorse.digits:") if process not in before]

    def _has_ended(self, version: int) -> bool:
        return any(self._server.has_event(event, version) for event in ("update_done", "update_refused"))

    def _processes(self, word: str) -> list[psutil.Process]:
        children = psutil.Process(self._server.command.process.pid).children(recursive=True)
        return [child for child in children if word in command_line(child)]


@pytest.mark.parametrize(
    ("replicas", "updates"),
    [
        pytest.param(1, len(VICTIMS), marks=pytest.mark.soak),
        pytest.param(1, 30, marks=pytest.mark.soak),
        pytest.param(3, 30, marks=pytest.mark.soak),
    ],
)
def test_process_that_is_killed_in_an_update_fails_no_request_and_serves_no_broken_version(
    replicas: int, updates: int, tmp_path: Path
) -> None:
    with following(tmp_path, "--replicas", str(replicas)) as server:
        load = ClientLoad(f"http://127.0.0.1:{server.port}", [REQUEST], clients=4, retry=PATIENT)
        killer = Killer(server)
        roll(server, updates, load, killer)
        sys.stdout.write(f"{len(killer.kills)} kills: {load.summary()}\n")
        assert load.failed("sync", "async") == [], load.summary()


@pytest.mark.parametrize("target", ["front", pytest.param("worker", marks=pytest.mark.soak)])
def test_server_that_is_killed_in_an_update_serves_what_the_repository_says_when_it_is_started_again(
    target: str, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    publish(repository, "digits", 1)
    port = free_port()
    with serving(tmp_path / "first", repository, port) as server:
        publish(repository, "digits", 2)
        server.wait_for("update_started", 2)
        (worker,) = psutil.Process(server.command.process.pid).children()
        server.command.send(signal.SIGCONT, "process")  # notes its sessions, for `left`
        (worker if target == "worker" else psutil.Process(server.command.process.pid)).kill()
        server.command.wait_until(lambda: not server.command.left(), running=False)
    publish(repository, "digits", 3)
    shutil.rmtree(repository / "digits" / "2")
    with serving(tmp_path / "second", repository, port) as server:
        assert server.models() == {"digits": 3}
