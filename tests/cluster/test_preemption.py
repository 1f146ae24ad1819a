"""SIGTERM: a checkpoint, exit code 75, and a `--resume` that ends like an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cluster.toys import BATCH, differing, events, toy
from tests.trainer.fitting import Job, fit_ranks

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOTAL = 1200


def _train(file: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "zorse", "train", str(file), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def _wait_for_lines(metrics: Path, count: int, process: subprocess.Popen[str]) -> None:
    for _ in range(2400):
        assert process.poll() is None, process.communicate()
        if sum(len(part.read_text().splitlines()) for part in metrics.glob("*.jsonl")) >= count:
            return
        try:
            process.wait(timeout=0.1)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("the run did not get going")


def test_preempted_run_reports_it_and_can_be_resumed(tmp_path: Path) -> None:
    folder, file = tmp_path / "run", tmp_path / "toy.yaml"
    # Nothing is due before the end: what is there was written because of the signal.
    data = toy("gan", folder, total_images=TOTAL, checkpoint_images=TOTAL)
    file.write_text(yaml.safe_dump(data))
    process = _train(file)
    _wait_for_lines(folder / "metrics", 3, process)
    # To the whole process group, as Slurm, supervisors and `timeout` send it.
    os.killpg(process.pid, signal.SIGTERM)
    _, stderr = process.communicate(timeout=200)
    assert process.returncode == 75
    assert stderr.splitlines()[-1].startswith("error: the run stopped on request and wrote a checkpoint")
    state = json.loads((folder / "run.json").read_text())
    assert state["state"] == "preempted"
    (left,) = (folder / "checkpoints").iterdir()
    assert 0 < int(left.name) < TOTAL
    assert int(left.name) % BATCH == 0

    refused = _train(file, "task.generator.width=8", "--resume")
    _, stderr = refused.communicate(timeout=200)
    assert refused.returncode == 1
    assert "cannot be resumed with task.generator.width: 4 -> 8" in stderr

    resumed = _train(file, "run.log_images=16", "--resume")
    _, stderr = resumed.communicate(timeout=200)
    assert resumed.returncode == 0, stderr
    assert "resumed with run.log_images: 8 -> 16" in events(folder)
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    fit_ranks([Job(toy("gan", tmp_path / "alone", total_images=TOTAL, checkpoint_images=TOTAL))], 2)
    assert differing(folder, tmp_path / "alone") == []
