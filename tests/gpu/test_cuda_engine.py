"""The engine on a GPU: placement, bound tensors, memory, float16, and the sizes of the ladder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from serving.batching import Tensors
from serving.config import Device
from serving.cuda import CONTEXT_BYTES, arena_limit, cuda_devices, gpu_memory, provider_options, run_bound
from serving.engine import OrtEngine
from serving.errors import EngineError
from serving.selftest import verify_artifact
from serving.sizes import padded_size
from tests.serving.conv_graph import conv_graph
from tests.serving.tiny import MAXIMUM, inverter_manifest, write

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")]
MANIFEST = inverter_manifest("paint")


def source(*shape: int) -> dict[str, NDArray[np.uint8]]:
    return {"source": np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)}


def painter(folder: Path, device: Device = "cuda", gpu_fraction: float = 1.0) -> OrtEngine:
    return OrtEngine(folder / "model.onnx", device, 1, gpu_fraction=gpu_fraction)


def grey_difference(engine: OrtEngine, other: OrtEngine, tensors: Tensors) -> int:
    return int(np.abs(engine.run(tensors)["image"].astype(int) - other.run(tensors)["image"]).max())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path, conv_graph(), MANIFEST)


def test_every_heavy_node_is_on_the_gpu(folder: Path) -> None:
    engine = painter(folder)
    assert engine.providers[0] == "CUDAExecutionProvider"
    assert engine.operators("cuda").count("Conv") + engine.operators("cuda").count("FusedConv") == 2
    assert not {"Conv", "FusedConv"}.intersection(engine.operators("cpu"))


def test_session_has_the_options_that_were_passed(folder: Path) -> None:
    actual = painter(folder)._session.get_provider_options()["CUDAExecutionProvider"]
    expected = provider_options(arena_limit(gpu_memory(), 1.0))
    assert {name: actual[name] for name in expected} == expected


def test_bound_run_returns_the_bytes_of_a_plain_run(folder: Path) -> None:
    session = painter(folder)._session
    for shape in ((1, 64, 64), (3, 64, 48), (1, 64, 64)):
        (bound,) = run_bound(session, source(*shape), ["image"], "cuda")
        np.testing.assert_array_equal(bound, session.run(["image"], source(*shape))[0])


def test_bound_runs_leave_earlier_images_alone(folder: Path) -> None:
    engine, tensors = painter(folder), source(1, 64, 64)
    first = engine.run(tensors)["image"]
    copy = first.copy()
    engine.run({"source": 255 - tensors["source"]})
    np.testing.assert_array_equal(first, copy)


def test_arena_does_not_grow_beyond_its_limit(tmp_path: Path) -> None:
    folder, arena = write(tmp_path, conv_graph(width=64), MANIFEST), 300 * 2**20
    engine = painter(folder, gpu_fraction=(CONTEXT_BYTES + arena) / gpu_memory())
    small, large = source(1, 64, 64), source(8, 1024, 1024)  # 2 GiB between the convolutions
    expected = engine.run(small)["image"]
    with pytest.raises(EngineError, match="onnxruntime failed"):
        engine.run(large)
    np.testing.assert_array_equal(engine.run(small)["image"], expected)


def test_float16_is_close_to_the_cpu(tmp_path: Path) -> None:
    folder = write(tmp_path, conv_graph(half=True), MANIFEST)
    assert grey_difference(painter(folder), painter(folder, "cpu"), source(2, 64, 48)) <= 2


def test_every_size_of_the_ladder_is_within_one_grey_level_of_the_cpu(folder: Path) -> None:
    cuda, cpu = painter(folder), painter(folder, "cpu")
    heights = {padded_size(MANIFEST.interface, [], height, 1)[0] for height in range(1, MAXIMUM + 1)}
    for height in sorted(heights):
        assert grey_difference(cuda, cpu, source(1, height, 32)) <= 1


def test_image_does_not_depend_on_its_batch(folder: Path) -> None:
    engine, tensors = painter(folder), source(8, 64, 64)
    whole = engine.run(tensors)["image"]
    for row in range(8):
        alone = engine.run({"source": tensors["source"][row : row + 1]})["image"]
        assert np.abs(alone[0].astype(int) - whole[row]).max() <= 1


def test_artifact_proved_on_the_cpu_passes_on_the_gpu(folder: Path) -> None:
    assert verify_artifact(folder, "cuda").max_grey_diff <= 1
