"""A job on a disk that is full ends with one line, and continues when there is space again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.batch import job
from serving.batch.job import JobOptions
from serving.batch.output import MANIFEST, REPORT, TEMPORARY, Output
from serving.batch.shard import Outcome, Task
from serving.batch.worker import OUTCOME, TASK, ShardWorker, WorkerSettings, parse_outcome
from serving.errors import BatchError
from tests.serving.batch.jobs import Reports, files_of, make_all, plan_of_command
from zorse_common.storage import Storage


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True, capture_output=True, timeout=30)


@contextlib.contextmanager
def _disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of this size at `folder`."""
    folder.mkdir(exist_ok=True)
    try:
        _mount("-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder))
    except (OSError, subprocess.SubprocessError):
        pytest.skip("only root can mount a disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True, timeout=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with _disk(tmp_path / "disk", 128) as disk:
        yield disk


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
    worker = ShardWorker(WorkerSettings(plan, str(small_disk)), Reports())
    tasks = [Task(shard).to_json() for shard in range(plan.shards)]
    with pytest.raises(BatchError, match="No space left on device"):
        _work(worker, tasks)
    assert len(Output(Storage(small_disk)).recorded()) < plan.shards
    assert list((small_disk / TEMPORARY).iterdir()) == []
    _mount("-o", "remount,size=4m", str(small_disk))
    _work(worker, tasks)
    Output(Storage(small_disk)).sweep()
    assert files_of(small_disk) == files_of(tmp_path / "undisturbed")


def test_job_on_a_disk_that_is_full_at_any_moment_continues(repository: Path, tmp_path: Path) -> None:
    options = JobOptions(device="cpu", shard_size=8)
    model = repository / "digits"
    plan = plan_of_command(model, {"seed": 7, "first": 0}, 20, options)

    def whole(folder: Path) -> dict[str, bytes]:
        make_all(model, plan, folder)
        job.generate(str(model), str(folder), 20, options, [].append, seed=7)
        return {name: content for name, content in files_of(folder).items() if name != REPORT}

    expected, size, there = whole(tmp_path / "undisturbed"), 0, set[str]()
    while MANIFEST not in there:
        size += 8
        with _disk(tmp_path / "disk", size) as disk:
            with contextlib.suppress(BatchError, OSError):
                whole(disk)
            there = {path.name for path in disk.glob("*") if path.is_file()}
            assert not (disk / TEMPORARY).exists() or not list((disk / TEMPORARY).iterdir())
            _mount("-o", "remount,size=4m", str(disk))
            assert whole(disk) == expected, size
