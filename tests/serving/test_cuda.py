"""What the CUDA path does can be seen without a GPU: its options, its choice of session, and bound runs on the CPU."""

from __future__ import annotations

import mmap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from serving.cuda import (
    CONTEXT_BYTES,
    arena_limit,
    check_placement,
    cuda_devices,
    gpu_fraction,
    gpu_memory,
    open_strict_first,
    provider_options,
    run_bound,
)
from serving.errors import EngineError
from tests.serving.tiny import conditional_manifest, generator_graph, sample_feeds, write

GIB = 2**30


def session(**operators: list[str]) -> Any:
    """Return a session that has assigned the `operators` to the providers `cpu` and `cuda`."""
    names = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    parts = [
        SimpleNamespace(
            ep_name=names[device], get_nodes=lambda types=types: [SimpleNamespace(op_type=t) for t in types]
        )
        for device, types in operators.items()
    ]
    return SimpleNamespace(get_provider_graph_assignment_info=lambda: parts)


def test_provider_options_are_known_to_onnxruntime() -> None:
    library = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    if not library.exists():
        pytest.skip("this onnxruntime has no CUDA provider")
    with library.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for name, value in provider_options(GIB).items():
            assert text.find(b"\0" + name.encode() + b"\0") >= 0, name
            if value.isalpha():
                assert text.find(value.encode()) >= 0, value


def test_provider_options_bound_the_memory() -> None:
    options = provider_options(5 * GIB)
    assert options["gpu_mem_limit"] == str(5 * GIB)
    assert options["arena_extend_strategy"] == "kSameAsRequested"


def test_provider_options_keep_float32_exact_and_new_shapes_cheap() -> None:
    options = provider_options(GIB)
    assert (options["use_tf32"], options["cudnn_conv_algo_search"]) == ("0", "HEURISTIC")


@pytest.mark.parametrize(
    ("replicas", "gpus", "fraction"), [(1, 1, 1), (2, 1, 0.5), (3, 2, 0.5), (5, 2, 1 / 3), (2, 8, 1)]
)
def test_gpu_fraction_fits_the_fullest_gpu(replicas: int, gpus: int, fraction: float) -> None:
    assert gpu_fraction(replicas, gpus) == fraction
    assert fraction * -(-replicas // gpus) <= 1


def test_arena_limits_of_all_replicas_fit_the_gpu() -> None:
    memory = 80 * GIB
    for replicas in (1, 2, 3, 7, 20):
        limit = arena_limit(memory, gpu_fraction(replicas, 1))
        assert replicas * (limit + CONTEXT_BYTES) <= memory


def test_arena_limit_refuses_a_fraction_without_room_for_a_model() -> None:
    with pytest.raises(
        EngineError, match=r"0.1 of a GPU with 4.0 GiB is too little for a replica, which needs 0.9 GiB"
    ):
        arena_limit(4 * GIB, 0.1)


def test_open_strict_first_keeps_a_session_without_cpu_nodes() -> None:
    attempts: list[bool] = []

    def open_session(strict: bool) -> str:
        attempts.append(strict)
        return "session"

    assert open_strict_first(open_session) == "session"
    assert attempts == [True]


def test_open_strict_first_opens_a_graph_with_cpu_nodes_without_the_flag() -> None:
    def open_session(strict: bool) -> str:
        if strict:
            raise RuntimeError("graph nodes that are assigned to the default CPU EP")
        return "session"

    assert open_strict_first(open_session) == "session"


def test_open_strict_first_reports_why_a_graph_does_not_open() -> None:
    def open_session(strict: bool) -> str:
        raise RuntimeError("strict" if strict else "no graph")

    with pytest.raises(RuntimeError, match="no graph"):
        open_strict_first(open_session)


def test_check_placement_allows_shape_arithmetic_on_the_cpu() -> None:
    check_placement("model.onnx", session(cpu=["Shape", "Gather", "Concat"], cuda=["Conv", "MatMul"]))


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Gemm", "MatMul"])
def test_check_placement_refuses_heavy_nodes_on_the_cpu(operator: str) -> None:
    with pytest.raises(EngineError, match=f"model.onnx: onnxruntime has no CUDA kernel for its {operator} and would"):
        check_placement("model.onnx", session(cpu=["Shape", operator], cuda=["Conv"]))


def test_run_bound_returns_what_a_plain_run_returns(tmp_path: Path) -> None:
    manifest = conditional_manifest()
    path = write(tmp_path, generator_graph(classes=3), manifest) / "model.onnx"
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    earlier: list[tuple[Any, Any]] = []
    for seed in range(3):
        feeds = sample_feeds(manifest, seed)
        (bound,) = run_bound(plain, feeds, ["image"], "cpu")
        earlier.append((bound, plain.run(["image"], feeds)[0]))
    for bound, expected in earlier:  # a later run leaves the arrays of an earlier one alone
        np.testing.assert_array_equal(bound, expected)


@pytest.mark.skipif(cuda_devices() > 0, reason="this machine has a CUDA device")
def test_gpu_memory_without_a_device_is_refused() -> None:
    with pytest.raises(EngineError, match="does not state the memory of its first device: use --device cpu"):
        gpu_memory()
