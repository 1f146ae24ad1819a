"""What onnxruntime needs on a GPU: its provider's options, the proof of placement, and runs with bound tensors."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from serving.batching import Tensors
from serving.errors import EngineError

CONTEXT_BYTES = 640 * 2**20
"""GPU memory of a process outside of onnxruntime's arena: the CUDA context, its kernels, cuDNN and cuBLAS."""
_SMALLEST_ARENA = 256 * 2**20
_HEAVY = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def cuda_devices() -> int:
    """Return the number of CUDA devices that this process may use (see CUDA_VISIBLE_DEVICES), 0 without a driver."""
    driver, count = _driver(), ctypes.c_int(0)
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def gpu_memory() -> int:
    """Return the bytes of memory of the first CUDA device that this process may use.

    Raises:
        EngineError: the driver shows no device.
    """
    driver, device, size = _driver(), ctypes.c_int(0), ctypes.c_size_t(0)
    if (
        driver is None
        or driver.cuDeviceGet(ctypes.byref(device), 0) != 0
        or driver.cuDeviceTotalMem_v2(ctypes.byref(size), device) != 0
    ):
        raise EngineError("the CUDA driver does not state the memory of its first device: use --device cpu")
    return size.value


def _driver() -> Any:
    """Return the CUDA driver, or None where there is none that works."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    return driver if driver.cuInit(0) == 0 else None


def gpu_fraction(replicas: int, gpus: int) -> float:
    """Return the part of a GPU that each of `replicas` equal processes may use on a machine with `gpus` GPUs.

    A process cannot span GPUs, so that the part depends on how many processes the fullest GPU holds.
    """
    return 1 / -(-replicas // gpus)


def arena_limit(memory: int, fraction: float) -> int:
    """Return how many bytes onnxruntime's arena may have in a process that may use `fraction` of `memory` bytes.

    Raises:
        EngineError: so little is left beside the CUDA context that no model would run.
    """
    limit = int(memory * fraction) - CONTEXT_BYTES
    if limit < _SMALLEST_ARENA:
        raise EngineError(
            f"{fraction:.3g} of a GPU with {memory / 2**30:.1f} GiB is too little for a replica, which needs "
            f"{(CONTEXT_BYTES + _SMALLEST_ARENA) / 2**30:.1f} GiB: use fewer --replicas or models, or --device cpu"
        )
    return limit


def provider_options(arena_bytes: int) -> dict[str, str]:
    """Return the options of the CUDA provider, every one that changes results, memory or speed written out."""
    return {
        # Ray shows each process its own GPU through CUDA_VISIBLE_DEVICES, where it is number 0.
        "device_id": "0",
        # TF32 has 10 bits of mantissa, which is less than proofs in float32 allow.
        "use_tf32": "0",
        # The default, EXHAUSTIVE, times all algorithms at each new shape: hundreds of milliseconds in a request.
        "cudnn_conv_algo_search": "HEURISTIC",
        # The algorithms for tensor cores, which float16 needs, want a large workspace. `gpu_mem_limit` bounds it.
        "cudnn_conv_use_max_workspace": "1",
        # Copies are ordered with the kernels that use them. A stream of their own would need synchronisation.
        "do_copy_in_default_stream": "1",
        # The default doubles the arena at every growth, up to twice of what the shapes in use need.
        "arena_extend_strategy": "kSameAsRequested",
        # Replicas share a GPU, and none may take the memory of another.
        "gpu_mem_limit": str(arena_bytes),
    }


def open_strict_first(open_session: Callable[[bool], Any]) -> Any:
    """Return `open_session(strict)`: strict, if the graph opens so, else not.

    A strict session refuses to have any node on the CPU. Shape arithmetic has to run there, so that a graph with some
    opens only without; `check_placement` then tells where its nodes are.
    """
    try:
        return open_session(True)
    except Exception:  # noqa: BLE001 - the second attempt tells a node on the CPU from a graph that does not open
        return open_session(False)


def check_placement(name: str, session: Any) -> None:
    """Check that the convolutions and matrix products of the graph `name` are on the GPU.

    Raises:
        EngineError: one of them would run on the CPU.
    """
    misplaced = _HEAVY.intersection(operators(session, "CPUExecutionProvider"))
    if misplaced:
        raise EngineError(
            f"{name}: onnxruntime has no CUDA kernel for its {', '.join(sorted(misplaced))} and would run them "
            "on the CPU: use --device cpu"
        )


def operators(session: Any, provider: str) -> list[str]:
    """Return the operators of the nodes that onnxruntime assigned to `provider`."""
    parts = session.get_provider_graph_assignment_info()
    return [node.op_type for part in parts if part.ep_name == provider for node in part.get_nodes()]


def run_bound(session: Any, tensors: Tensors, outputs: Sequence[str], device: str) -> list[Any]:
    """Run `session` with tensors bound to `device` ("cuda" or "cpu"), and return the `outputs` as arrays.

    Each input is copied to where the graph uses it, once, and each output back, once, after the run. `tensors` are
    contiguous. A new binding for each run never replays the buffers of another.
    """
    binding = session.io_binding()
    for name, array in tensors.items():
        binding.bind_cpu_input(name, array)
    for name in outputs:
        binding.bind_output(name, device)
    # onnxruntime's own stream does not wait for the copies of the inputs.
    binding.synchronize_inputs()
    session.run_with_iobinding(binding)
    binding.synchronize_outputs()
    arrays: list[Any] = binding.copy_outputs_to_cpu()
    return arrays
