"""A run as a Ray Job: stopped by `ray job stop`, and finished by another job with `--resume`."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from serving.ports import free_port
from tests.cluster.toys import BATCH, events, toy

# The suite's short version is test_preemption.py: what `ray job stop` sends is a SIGTERM.
pytestmark = [pytest.mark.ray, pytest.mark.soak, pytest.mark.timeout(600)]

RAY = str(Path(sys.executable).with_name("ray"))


class Jobs:
    """A private cluster with a dashboard, and the command `ray job` on it."""

    def __init__(self, folder: Path) -> None:
        # A separate token, so that the user's is neither needed nor created.
        self._token = secrets.token_hex(32)
        self._environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self._token,
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",
        }
        self._log = folder / "cluster.log"
        # Ports that Ray chooses itself are nobody else's; that of Ray Client's server it does not.
        ports = [
            "--port=0",
            "--dashboard-port=0",
            "--dashboard-agent-listen-port=0",
            f"--ray-client-server-port={free_port()}",
        ]
        command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}", *ports]
        with self._log.open("wb") as log:
            self._cluster = subprocess.Popen(command, stdout=log, stderr=log, env=self._environment)

    @property
    def _address(self) -> str | None:
        """The dashboard's URL, once the cluster has logged it."""
        match = re.search(r"http://127\.0\.0\.1:\d+", self._log.read_text())
        return match[0] if match else None

    def wait_until(self, done: Callable[[], bool]) -> None:
        """Wait until `done` returns true, while the cluster runs."""
        for _ in range(3000):
            if done():
                return
            assert self._cluster.poll() is None, self._log.read_text()
            try:
                self._cluster.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
        pytest.fail("the cluster did not get there")

    def listening(self) -> bool:
        """Return whether the cluster accepts jobs."""
        if self._address is None:
            return False
        headers = {"Authorization": f"Bearer {self._token}"}
        try:
            return httpx.get(f"{self._address}/api/jobs/", headers=headers).is_success
        except httpx.TransportError:
            return False

    def ask(self, verb: str, *words: str) -> str:
        """Run `ray job <verb>`, which must succeed."""
        command = [RAY, "job", verb, "--address", str(self._address), *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self._log.read_text()}"
        return done.stdout

    def close(self) -> None:
        """End the cluster."""
        self._cluster.terminate()
        self._cluster.wait(timeout=60)


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    # Ray's sockets lie there, whose paths may have 107 characters at most.
    folder = Path(tempfile.mkdtemp(prefix="zorse-", dir="/tmp"))
    jobs = Jobs(folder)
    try:
        jobs.wait_until(jobs.listening)
        yield jobs
    finally:
        jobs.close()
        shutil.rmtree(folder)


def test_job_is_stopped_and_another_job_ends_its_run(tmp_path: Path, jobs: Jobs) -> None:
    folder, configs = tmp_path / "run", tmp_path / "configs"
    configs.mkdir()
    # Neither the end nor a checkpoint is due: what is there was written because of the signal.
    data = toy("gan", folder, total_images=10**6, checkpoint_images=10**6)
    (configs / "toy.yaml").write_text(yaml.safe_dump(data))
    command = ["--working-dir", str(configs), "--", sys.executable, "-m", "zorse", "train", "toy.yaml"]
    patience = json.dumps({"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}})
    jobs.ask("submit", "--no-wait", "--submission-id", "first", "--runtime-env-json", patience, *command)
    jobs.wait_until((folder / "metrics").exists)
    jobs.ask("stop", "first")
    assert "'first' was stopped" in jobs.ask("status", "first")
    assert json.loads((folder / "run.json").read_text())["state"] == "preempted"
    (left,) = (int(checkpoint.name) for checkpoint in (folder / "checkpoints").iterdir())
    assert left > 0
    assert left % BATCH == 0

    total = left + 10 * BATCH
    log = jobs.ask("submit", *command, f"run.total_images={total}", "--resume")
    assert f"trained: {folder}" in log.replace("\n", "")
    assert f"training from image {left} on with 2 workers on cpu" in events(folder)
    assert max(int(checkpoint.name) for checkpoint in (folder / "checkpoints").iterdir()) == total
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
