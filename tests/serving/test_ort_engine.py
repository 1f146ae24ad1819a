from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving.cuda import cuda_devices
from serving.engine import OrtEngine, cpu_cores, resolve_device
from serving.errors import EngineError

without_cuda = pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")


def engine(repository: Path, name: str = "digits") -> OrtEngine:
    return OrtEngine(repository / name / "1" / "model.onnx", "cpu", threads=1)


def test_cpu_engine_runs_on_the_cpu_alone(repository: Path) -> None:
    assert engine(repository).providers == ("CPUExecutionProvider",)


def test_operators_lists_the_nodes_of_each_device(repository: Path) -> None:
    assert engine(repository).operators("cpu") == ["MatMul", "Clip", "Cast", "Reshape"]
    assert engine(repository).operators("cuda") == []


def test_cpu_cores_is_known_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu_cores() >= 1
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    assert cpu_cores() == (os.cpu_count() or 1)


def test_engine_makes_the_same_image_in_every_batch(repository: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    digits = engine(repository)
    whole = digits.run({"latent": codes})["image"]
    assert whole.dtype == np.uint8
    for row in range(8):
        np.testing.assert_array_equal(digits.run({"latent": codes[row : row + 1]})["image"][0], whole[row])


def test_engine_takes_inputs_that_are_not_contiguous(repository: Path) -> None:
    source = np.random.default_rng(0).integers(0, 256, (1, 20, 32, 3), dtype=np.uint8)[:, :, ::2]
    np.testing.assert_array_equal(engine(repository, "invert").run({"source": source})["image"], 255 - source)


def test_engine_reports_inputs_that_the_graph_refuses(repository: Path) -> None:
    with pytest.raises(EngineError, match="onnxruntime failed"):
        engine(repository).run({"latent": np.zeros((1, 7), np.float32)})


def test_engine_refuses_a_file_that_is_not_a_graph(tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="onnxruntime cannot load"):
        OrtEngine(model, "cpu", 1)


@without_cuda
def test_cuda_without_a_device_is_refused_with_the_reason(repository: Path) -> None:
    with pytest.raises(EngineError, match="use --device cpu"):
        OrtEngine(repository / "digits" / "1" / "model.onnx", "cuda", 1)


@without_cuda
def test_resolve_device_takes_the_cpu_without_a_cuda_device() -> None:
    assert resolve_device("auto") == "cpu"
    assert resolve_device("cuda") == "cuda"


@pytest.mark.gpu
@pytest.mark.skipif(cuda_devices() == 0, reason="needs a CUDA device")
def test_cuda_is_within_one_grey_level_of_the_cpu(repository: Path) -> None:
    codes = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    cuda = OrtEngine(repository / "digits" / "1" / "model.onnx", "cuda", 1)
    assert cuda.providers[0] == "CUDAExecutionProvider"
    assert "MatMul" in cuda.operators("cuda")
    difference = cuda.run({"latent": codes})["image"].astype(int) - engine(repository).run({"latent": codes})["image"]
    assert abs(difference).max() <= 1


def test_onnxruntime_writes_no_telemetry(repository: Path, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    environment |= {name: str(tmp_path) for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    model = repository / "digits" / "1" / "model.onnx"
    words = f"from serving.engine import OrtEngine; from pathlib import Path; OrtEngine(Path({str(model)!r}), 'cpu', 1)"
    subprocess.run([sys.executable, "-c", words], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
