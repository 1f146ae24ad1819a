"""A job on a disk that is full ends with one line, and continues when there is space again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.batch.job import JobOptions
from serving.batch.output import TEMPORARY, Output
from serving.batch.shard import Outcome, Task
from serving.batch.worker import OUTCOME, TASK, ShardWorker, WorkerSettings, parse_outcome
from serving.errors import BatchError
from tests.serving.batch.jobs import Reports, files_of, make_all, plan_of_command
from zorse_common.storage import Storage


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, timeout=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 128 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        _mount("-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk))
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a disk")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True, capture_output=True, timeout=30)


def _work(worker: ShardWorker, tasks: list[str]) -> list[Outcome]:
    return [parse_outcome(text) for text in worker({TASK: tasks})[OUTCOME]]


@pytest.mark.parametrize("name", ["images", "webdataset"])
def test_job_on_a_full_disk_continues_when_there_is_space(
    name: str, repository: Path, small_disk: Path, tmp_path: Path
) -> None:
    options = JobOptions(device="cpu", shard_size=20, format=name)
    plan = plan_of_command(repository / "digits", {"seed": 1}, 200, options)
    make_all(repository / "digits", plan, tmp_path / "undisturbed")
    Output(Storage(small_disk)).claim(plan)
    worker = ShardWorker(WorkerSettings(plan.to_json(), str(small_disk)), Reports())
    tasks = [Task(shard).to_json() for shard in range(plan.shards)]
    with pytest.raises(BatchError, match="No space left on device"):
        _work(worker, tasks)
    assert len(Output(Storage(small_disk)).recorded()) < plan.shards
    assert list((small_disk / TEMPORARY).iterdir()) == []
    _mount("-o", "remount,size=4m", str(small_disk))
    _work(worker, tasks)
    Output(Storage(small_disk)).sweep()
    assert files_of(small_disk) == files_of(tmp_path / "undisturbed")
