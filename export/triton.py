"""The configuration with which a Triton server loads a model: as JSON, and as the text of `config.pbtxt`."""

from __future__ import annotations

from typing import Any

from export.interface import TensorSpec
from export.manifest import PROVED_BATCH, Manifest


def model_config(manifest: Manifest) -> dict[str, Any]:
    """Return the model's configuration in the JSON form of Triton's `ModelConfig`.

    Tensors are declared without their batch axis where that is free, and dynamic heights and widths as -1.
    """
    batched = isinstance(manifest.interface.inputs[0].shape[0], str)
    config: dict[str, Any] = {
        "name": manifest.name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": PROVED_BATCH if batched else 0,
        "input": [_tensor(tensor, batched) for tensor in manifest.interface.inputs],
        "output": [_tensor(tensor, batched) for tensor in manifest.interface.outputs],
    }
    return {**config, "dynamic_batching": {}} if batched else config


def triton_config(manifest: Manifest) -> str:
    """Return `model_config` as the content of `config.pbtxt`."""
    lines: list[str] = []
    for key, value in model_config(manifest).items():
        if isinstance(value, list):
            lines += [f"{key} [ {_tensor_text(tensor)} ]" for tensor in value]
        elif isinstance(value, dict):
            lines.append(f"{key} {{ }}")
        else:
            lines.append(f'{key}: "{value}"' if isinstance(value, str) else f"{key}: {value}")
    return "\n".join(lines) + "\n"


def _tensor(tensor: TensorSpec, batched: bool) -> dict[str, Any]:
    axes = tensor.shape[1:] if batched else tensor.shape
    return {
        "name": tensor.name,
        "data_type": "TYPE_" + tensor.dtype.upper().replace("FLOAT", "FP"),
        "dims": [-1 if isinstance(axis, str) else axis for axis in axes],
    }


def _tensor_text(tensor: dict[str, Any]) -> str:
    dims = ", ".join(map(str, tensor["dims"]))
    return f'{{ name: "{tensor["name"]}" data_type: {tensor["data_type"]} dims: [ {dims} ] }}'
