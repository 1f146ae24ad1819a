"""A batch job on two Ray nodes has the bytes of one, also if a node is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from serving.batch import job
from serving.batch.devices import job_device
from serving.batch.driver import Scale, run_tasks
from serving.batch.job import JobOptions
from serving.batch.shard import tasks_of
from serving.batch.worker import WorkerSettings
from serving.errors import BatchError
from tests.cluster.nodes import two_nodes_cluster
from tests.serving.batch.jobs import files_of, make_all, plan_of_command
from tests.serving.tiny import inverter_manifest, slow_graph, write
from zorse_common.image_writer import encode

pytestmark = [pytest.mark.ray, pytest.mark.slow]

OPTIONS = JobOptions(device="cpu", shard_size=1, format="images", workers=2)
IMAGES = 40


@pytest.fixture(scope="module")
def two_nodes() -> Iterator[Cluster]:
    with two_nodes_cluster() as cluster:
        yield cluster


def test_two_nodes_write_the_bytes_of_one_also_when_one_is_lost(tmp_path: Path, two_nodes: Cluster) -> None:
    photos, model = tmp_path / "photos", write(tmp_path / "repository", slow_graph(), inverter_manifest())
    photos.mkdir()
    for number in range(IMAGES):
        (photos / f"{number:02d}.png").write_bytes(encode(np.full((32, 32, 3), number, np.uint8)))
    listing = job.list_inputs(str(photos))
    plan = plan_of_command(model, {}, IMAGES, OPTIONS)
    plan = plan.model_copy(update={"inputs": job.inputs_digest(listing)})
    make_all(model, plan, tmp_path / "one", str(photos))

    job.translate(str(model), str(photos), str(tmp_path / "two"), OPTIONS, [].append)
    settings, stop = WorkerSettings(plan, str(tmp_path / "lost")), threading.Event()
    tasks = tasks_of(plan, listing, range(plan.shards))
    shards = []
    for outcome in run_tasks(plan, tasks, settings, Scale(workers=2), stop):
        shards.append(outcome.record.shard)
        if len(shards) == IMAGES // 4:
            two_nodes.remove_node(next(iter(two_nodes.worker_nodes)), allow_graceful=False)
    assert sorted(shards) == list(range(plan.shards))
    assert files_of(tmp_path / "one/shards") == files_of(tmp_path / "two/shards")
    assert files_of(tmp_path / "one/records") == files_of(tmp_path / "two/records")
    assert files_of(tmp_path / "one/shards") == files_of(tmp_path / "lost/shards")


def test_device_is_that_of_the_cluster_and_a_worker_without_it_ends_the_job(
    repository: Path, tmp_path: Path, two_nodes: Cluster
) -> None:
    output = str(tmp_path / "out")
    assert job_device("auto", output, None) == "cpu"
    node = two_nodes.add_node(num_cpus=1, num_gpus=1)  # a GPU that Ray is told of, and that does not exist
    assert job_device("auto", output, None) == "cuda"
    with pytest.raises(BatchError, match=r"(CUDA was requested|has no CUDA provider).* use --device cpu"):
        job.generate(str(repository / "digits"), output, 20, JobOptions(), [].append)
    two_nodes.remove_node(node)
    assert job_device("auto", output, None) == "cuda"
