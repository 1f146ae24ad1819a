"""What the server decides before Ray starts anything."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from serving import artifacts
from serving.app import replica_resources
from serving.deployment import GATEWAY
from serving.errors import ArtifactError, StartError
from serving.memory import _group_free, available_memory, check_memory
from tests.serving.tiny import generator_graph, generator_manifest, write


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_all_replicas_find_a_gpu(gpus: int) -> None:
    for replicas in range(1, 40 * gpus):
        share = replica_resources("cuda", replicas, cpus=64, gpus=gpus)["num_gpus"]
        assert 0 < share <= 1
        assert math.floor(1 / share) * gpus >= replicas


def test_three_replicas_on_two_gpus_take_half_a_gpu_each() -> None:
    assert replica_resources("cuda", 3, cpus=8, gpus=2) == {"num_cpus": 0.1, "num_gpus": 0.5}
    assert replica_resources("cuda", 2, cpus=8, gpus=8) == {"num_cpus": 0.1, "num_gpus": 1.0}
    assert replica_resources("cpu", 19, cpus=2, gpus=4) == {"num_cpus": 0.1}


@pytest.mark.parametrize("cpus", [1, 2, 7])
def test_all_replicas_and_the_gateway_find_a_core(cpus: int) -> None:
    for replicas in (1, 9, 19, 30, 100, 999):
        share = replica_resources("cpu", replicas, cpus, 0)["num_cpus"]
        assert 0 < share * (replicas + 1) <= cpus


def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(StartError, match="Ray sees no GPU: ask for --device cpu"):
        replica_resources("cuda", 1, 4, 0)


def test_more_processes_than_the_memory_holds_are_refused_with_advice_that_helps() -> None:
    thirty = [400_000] * 30
    check_memory(1, thirty, available=19 * 2**30)
    with pytest.raises(
        StartError, match=r"30 models with 1 replicas .* 7.1 GiB .* 4.0 GiB are free: serve a repository"
    ):
        check_memory(1, thirty, available=4 * 2**30)
    with pytest.raises(StartError, match=r"2 models with 9 replicas .* ask for fewer --replicas"):
        check_memory(9, thirty[:2], available=4 * 2**30)
    free = available_memory()
    assert free is None or free > 0


def test_files_that_a_container_has_read_are_free_memory(tmp_path: Path) -> None:
    for name, content in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 600\n"),
    ):
        (tmp_path / name).write_text(content)
    assert _group_free(tmp_path) == 700


def test_no_model_can_take_the_gateways_name(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest(GATEWAY))
    with pytest.raises(ArtifactError, match=rf"skipped {GATEWAY}: a model's name may"):
        artifacts.find(tmp_path)
