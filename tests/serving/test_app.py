"""Checks of the server before Ray starts: resources, memory, and names."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import pytest

from serving import artifacts
from serving.app import model_settings, running_server
from serving.application_names import GATEWAY, application_name, is_ours
from serving.applications import Applications, replica_resources
from serving.config import Batching, Limits, ModelSettings, Replicas, ServerSettings
from serving.errors import ArtifactError, StartError
from serving.memory import COPIES, REPLICA_BYTES, _control_group_memory, available_memory, check_memory
from serving.ports import free_port
from tests.serving.tiny import generator_graph, generator_manifest, write


@pytest.mark.parametrize("gpus", [1, 2, 3, 8])
def test_replicas_all_fit_on_the_gpus(gpus: int) -> None:
    for replicas in range(1, 40 * gpus):
        share = replica_resources("cuda", replicas, cpus=64, gpus=gpus)["num_gpus"]
        assert 0 < share <= 1
        assert math.floor(1 / share) * gpus >= replicas


def test_replicas_share_the_gpus_evenly() -> None:
    assert replica_resources("cuda", 3, cpus=8, gpus=2) == {"num_cpus": 0.01, "num_gpus": 0.5}
    assert replica_resources("cuda", 2, cpus=8, gpus=8) == {"num_cpus": 0.01, "num_gpus": 1.0}
    assert replica_resources("cpu", 19, cpus=2, gpus=4) == {"num_cpus": 0.01}


@pytest.mark.parametrize("cpus", [1, 2, 7])
def test_replicas_and_gateway_all_fit_on_the_cores(cpus: int) -> None:
    for replicas in (1, 9, 19, 30, 100, 999):
        share = replica_resources("cpu", replicas, cpus, 0)["num_cpus"]
        assert 0 < share * (replicas + 1) <= cpus


def test_models_that_come_later_fit_beside_a_single_one() -> None:
    assert replica_resources("cpu", 2, cpus=1, gpus=0)["num_cpus"] * 60 < 1


def test_replica_resources_refuse_cuda_without_a_gpu() -> None:
    with pytest.raises(StartError, match="Ray sees no GPU: use --device cpu"):
        replica_resources("cuda", 1, 4, 0)


def test_check_memory_refuses_too_many_processes_with_advice() -> None:
    thirty = [400_000] * 30
    check_memory(1, thirty, available=5 * 2**30)
    with pytest.raises(
        StartError, match=r"30 models with 1 replicas .* 4.1 GiB .* 4.0 GiB are free: serve a repository"
    ):
        check_memory(1, thirty, available=4 * 2**30)
    with pytest.raises(StartError, match=r"2 models with 19 replicas .* use fewer --replicas"):
        check_memory(19, thirty[:2], available=4 * 2**30)
    free = available_memory()
    assert free is None or free > 0


def test_start_counts_weights_in_a_separate_file(tmp_path: Path) -> None:
    folder = write(tmp_path, generator_graph(), generator_manifest(), weights_apart=True)
    nbytes = sum((folder / name).stat().st_size for name in ("model.onnx", "model.onnx.data", "golden.npz"))
    needed = 10**9 * (REPLICA_BYTES + COPIES * nbytes)
    settings = ServerSettings(repository=str(tmp_path), port=free_port(), replicas=Replicas(max=10**9))
    with pytest.raises(StartError, match=f"need about {needed / 2**30:.1f} GiB"), running_server(settings):
        pass


def test_start_skips_a_broken_artifact_and_names_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, generator_graph(), generator_manifest("digits"))
    broken = write(tmp_path, generator_graph(), generator_manifest("faces"))
    (broken / "model.onnx").write_bytes(b"no graph")
    settings = ServerSettings(repository=str(tmp_path), port=free_port(), replicas=Replicas(max=10**9))
    with pytest.raises(StartError, match="1 models with"), running_server(settings):
        pass
    assert f"skipped faces/1 of {tmp_path}: " in caplog.text
    (tmp_path / "digits" / "1" / "model.onnx").write_bytes(b"no graph")
    reasons = r"skipped digits/1: .*; skipped faces/1: .*"
    with pytest.raises(ArtifactError, match=f"no artifact that can be served; {reasons}"), running_server(settings):
        pass


def test_models_have_the_limits_of_their_server(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest())
    limits, batching = Limits(bytes=1, pixels=2, images=3), Batching(max_size=4, timeout_s=5)
    settings = ServerSettings(repository=str(tmp_path), device="cpu", limits=limits, batching=batching)
    models = {"digits": artifacts.load(artifacts.find(tmp_path).models["digits"].uri)}
    (model,) = model_settings(settings, models, "/tmp/zorse")
    assert (model.limits, model.batching, model.folder) == (limits, batching, "/tmp/zorse")


def test_control_group_memory_counts_the_page_cache_as_free(tmp_path: Path) -> None:
    for name, content in (
        ("memory.max", "1000"),
        ("memory.current", "900"),
        ("memory.stat", "anon 1\ninactive_file 600\n"),
    ):
        (tmp_path / name).write_text(content)
    assert _control_group_memory(tmp_path) == 700


@pytest.mark.parametrize("model", ["zorse", "gateway", "model", ".", "zorse.zorse"])
def test_names_of_applications_are_of_this_server_and_never_the_gateways(model: str) -> None:
    assert application_name(model) != GATEWAY
    assert is_ours(application_name(model))
    assert is_ours(GATEWAY)
    assert not is_ours(model) or model.startswith("zorse")


@pytest.mark.parametrize("application", ["default", "digits", "zorses", "zorse-2", "a.zorse", "_gateway"])
def test_applications_of_others_are_not_of_this_server(application: str) -> None:
    assert not is_ours(application)


def test_version_for_which_the_gpus_have_no_room_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    artifact = artifacts.load(write(tmp_path, generator_graph(), generator_manifest()))
    settings = ModelSettings(name="digits", artifact="", device="cuda", gpu_fraction=0.5, folder="/tmp")
    stop = threading.Event()
    stop.set()  # so that Ray is not given time to see that a process has ended
    full = Applications(lambda _: settings, stop, free_gpus=lambda: 0.4)
    with pytest.raises(StartError, match="the GPUs have no room for it: unload a model first"):
        full.run(artifact, artifact)
