"""What the server decides before Ray starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from serving import artifacts
from serving.app import replica_resources
from serving.deployment import GATEWAY
from serving.errors import ArtifactError, StartError
from tests.serving.tiny import generator_graph, generator_manifest, write


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_all_replicas_find_a_gpu(gpus: int) -> None:
    for replicas in range(1, 40 * gpus):
        share = replica_resources("cuda", replicas, cpus=64, gpus=gpus)["num_gpus"]
        assert 0 < share <= 1
        assert 100 // round(share * 100) * gpus >= replicas


def test_three_replicas_on_two_gpus_take_half_a_gpu_each() -> None:
    assert replica_resources("cuda", 3, cpus=8, gpus=2) == {"num_cpus": 0.1, "num_gpus": 0.5}
    assert replica_resources("cuda", 2, cpus=8, gpus=8) == {"num_cpus": 0.1, "num_gpus": 1.0}
    assert replica_resources("cpu", 19, cpus=2, gpus=4) == {"num_cpus": 0.1}


@pytest.mark.parametrize(
    ("device", "replicas", "cpus", "gpus", "message"),
    [
        ("cpu", 20, 2, 0, "20 replicas were asked for and 2 CPU cores and 0 GPUs hold 19"),
        ("cuda", 101, 64, 1, "101 replicas were asked for and 64 CPU cores and 1 GPUs hold 100"),
        ("cuda", 40, 4, 8, "40 replicas were asked for and 4 CPU cores and 8 GPUs hold 39"),
        ("cuda", 1, 4, 0, "Ray sees no GPU: ask for --device cpu"),
    ],
)
def test_more_replicas_than_fit_are_refused(
    device: Literal["cpu", "cuda"], replicas: int, cpus: int, gpus: int, message: str
) -> None:
    with pytest.raises(StartError, match=message):
        replica_resources(device, replicas, cpus, gpus)


def test_no_model_can_take_the_gateways_name(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest(GATEWAY))
    with pytest.raises(ArtifactError, match="cannot be a model's name"):
        artifacts.find(tmp_path)
