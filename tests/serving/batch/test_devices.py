"""The device of a batch job is that of its workers' machines."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from serving.batch import job
from serving.batch.devices import job_device
from serving.batch.job import JobOptions
from serving.batch.output import Output
from serving.errors import BatchError
from tests.serving.batch.jobs import files_of, make_all, plan_of, plan_of_command
from tests.serving.tiny import generator_manifest
from zorse_common.storage import Storage


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device_of_a_job_that_is_continued_is_that_of_its_plan(device: Literal["cpu", "cuda"], tmp_path: Path) -> None:
    Output(Storage(tmp_path)).claim(plan_of(generator_manifest(), device=device))
    assert job_device("auto", str(tmp_path), "127.0.0.1:1") == device


def test_device_that_is_named_is_taken(tmp_path: Path) -> None:
    Output(Storage(tmp_path)).claim(plan_of(generator_manifest(), device="cpu"))
    assert job_device("cuda", str(tmp_path), "127.0.0.1:1") == "cuda"


def test_device_of_a_cluster_that_does_not_answer_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(BatchError, match=r"no Ray cluster answers at 127.0.0.1:1"):
        job_device("auto", str(tmp_path), "127.0.0.1:1")


def test_finished_job_needs_no_device(repository: Path, tmp_path: Path) -> None:
    options = JobOptions(device="cpu", shard_size=8)
    make_all(repository / "digits", plan_of_command(repository / "digits", {"seed": 7}, 20, options), tmp_path)
    for _ in range(2):
        auto = JobOptions(shard_size=8, address="127.0.0.1:1")
        result = job.generate(str(repository / "digits"), str(tmp_path), 20, auto, [].append, seed=7)
    assert result.was_finished
    assert len(files_of(tmp_path / "shards")) == 3
