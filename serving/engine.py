"""The `Engine` protocol, which runs a graph, and its implementation with onnxruntime."""

from __future__ import annotations

import ctypes
import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from serving.batching import Tensors, rows
from serving.config import Device, DeviceChoice
from serving.cuda import (
    arena_limit,
    check_placement,
    cuda_devices,
    gpu_memory,
    open_strict_first,
    operators,
    provider_options,
    run_bound,
)
from serving.errors import EngineError

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

NodeArg = tuple[str, str, tuple[int | str, ...]]
"""The name, dtype and shape of an input or output; a dynamic axis of the shape has a name."""


class Engine(Protocol):
    """Runs one graph."""

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the graph runs on, the preferred one first."""

    def run(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Return the graph's outputs by name for its inputs by name.

        Raises:
            EngineError: the graph refuses the inputs or fails.
        """


class OrtEngine:
    """Runs a graph with onnxruntime on explicit providers: on CUDA, or not at all, if CUDA is requested."""

    def __init__(
        self,
        model: Path,
        device: Device,
        threads: int,
        axes: Mapping[str, int] = MappingProxyType({}),
        gpu_fraction: float = 1.0,
    ) -> None:
        """Load `model`. Its runs use `threads` CPU threads.

        `axes` fixes dynamic axes ("batch", …) to a size. `gpu_fraction` is the part of the GPU's memory that the
        process may use.

        Raises:
            EngineError: the graph cannot be loaded, or `device` is CUDA and a convolution or matrix product would run
                on the CPU.
        """
        if device == "cuda":
            _require_cuda()
            cuda = provider_options(arena_limit(gpu_memory(), gpu_fraction))
        try:
            if device == "cpu":
                self._session = _open(model, _options(threads, axes), "cpu", {})
            else:
                self._session = open_strict_first(
                    lambda strict: _open(model, _options(threads, axes, strict), "cuda", cuda)
                )
        except Exception as error:  # the only common base of onnxruntime's errors
            raise EngineError(f"onnxruntime cannot load {model}: {error}") from error
        self._session.disable_fallback()
        if _PROVIDERS[device] not in self.providers:
            raise EngineError(
                f"{model} would run on {', '.join(self.providers)} and not on CUDA: {_why_no_cuda()}; "
                "repair the CUDA installation or use --device cpu"
            )
        if device == "cuda":
            check_placement(str(model), self._session)
        self.threads = threads
        self._is_bound = device == "cuda"
        self._outputs = [output.name for output in self._session.get_outputs()]
        batch = self.inputs[0][2][0]
        self._batch = batch if isinstance(batch, int) else 0

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers of the session, which may be fewer than were requested."""
        return tuple(self._session.get_providers())

    @property
    def metadata(self) -> Mapping[str, str]:
        """The metadata of the model file."""
        properties: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return properties

    @property
    def inputs(self) -> list[NodeArg]:
        """The graph's inputs."""
        return [_node_arg(node) for node in self._session.get_inputs()]

    @property
    def outputs(self) -> list[NodeArg]:
        """The graph's outputs."""
        return [_node_arg(node) for node in self._session.get_outputs()]

    def operators(self, device: Device) -> list[str]:
        """Return the operators of the nodes that onnxruntime assigned to `device`."""
        return operators(self._session, _PROVIDERS[device])

    def run(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Run the graph. See `Engine.run`.

        Fewer rows than a graph with a fixed batch takes are filled up with the last one, whose outputs are cut off.
        """
        filled = self._batch and rows(tensors) < self._batch
        if filled:
            count, tensors = rows(tensors), {name: _filled(array, self._batch) for name, array in tensors.items()}
        contiguous = {
            name: array if array.flags.c_contiguous else np.ascontiguousarray(array) for name, array in tensors.items()
        }
        try:
            if self._is_bound:
                outputs = run_bound(self._session, contiguous, self._outputs, "cuda")
            else:
                outputs = self._session.run(self._outputs, contiguous)
        except Exception as error:
            raise EngineError(f"onnxruntime failed: {error}") from error
        named = dict(zip(self._outputs, outputs, strict=True))
        return {name: array[:count] for name, array in named.items()} if filled else named


def import_runtime() -> None:
    """Import onnxruntime now, so that the first session's start is not timed with it."""
    importlib.import_module("onnxruntime")


def resolve_device(device: DeviceChoice) -> Device:
    """Return `device`; "auto" becomes CUDA if this process sees a CUDA device, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if cuda_devices() else "cpu"


def cpu_cores() -> int:
    """Return the number of cores that this process may use, or, where the system does not state it (macOS), of all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _filled(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return `array` with its last row repeated until it has `batch` rows."""
    return np.concatenate([array, np.repeat(array[-1:], batch - len(array), axis=0)])


def _node_arg(node: Any) -> NodeArg:
    dtype = node.type.removeprefix("tensor(").removesuffix(")")
    return node.name, {"float": "float32"}.get(dtype, dtype), tuple(node.shape)


def _options(threads: int, axes: Mapping[str, int], strict: bool = False) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4 if strict else 3
    # Spinning idle threads would take the cores from the other models of the machine.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.add_session_config_entry("session.disable_cpu_ep_fallback", str(int(strict)))
    for axis, size in axes.items():
        options.add_free_dimension_override_by_name(axis, size)
    return options


def _open(model: Path, options: Any, device: Device, provider_options: Mapping[str, str]) -> Any:
    import onnxruntime

    # onnxruntime adds the CPU's provider itself, and refuses a strict session in which it is named.
    return onnxruntime.InferenceSession(str(model), options, providers=[(_PROVIDERS[device], dict(provider_options))])


def _require_cuda() -> None:
    import onnxruntime

    if _PROVIDERS["cuda"] not in onnxruntime.get_available_providers():
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} has no CUDA provider: install onnxruntime-gpu alone "
            "(onnxruntime beside it hides it) or use --device cpu"
        )
    if not cuda_devices():
        raise EngineError("CUDA was requested and the driver shows no device: use --device cpu")
    onnxruntime.preload_dlls(directory="")


def _why_no_cuda() -> str:
    """Return why the CUDA provider cannot be loaded. onnxruntime only logs the reason."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        for library in ("shared", "cuda"):
            ctypes.CDLL(str(folder / f"libonnxruntime_providers_{library}.so"), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return str(error)
    return "the CUDA provider refused to start (see onnxruntime's lines above)"
