"""The configuration with which a Triton server loads a model's folder."""

from __future__ import annotations

from export.interface import TensorSpec
from export.manifest import PROVED_BATCH, Manifest


def triton_config(manifest: Manifest) -> str:
    """The content of `config.pbtxt`.

    Tensors are declared without their batch axis where that is free, and dynamic heights and widths as -1.
    """
    batched = isinstance(manifest.interface.inputs[0].shape[0], str)
    blocks = [
        f'name: "{manifest.name}"',
        'platform: "onnxruntime_onnx"',
        f"max_batch_size: {PROVED_BATCH if batched else 0}",
    ]
    blocks += [_tensor("input", tensor, batched) for tensor in manifest.interface.inputs]
    blocks += [_tensor("output", tensor, batched) for tensor in manifest.interface.outputs]
    return "\n".join([*blocks, *(["dynamic_batching { }"] if batched else [])]) + "\n"


def _tensor(side: str, tensor: TensorSpec, batched: bool) -> str:
    axes = tensor.shape[1:] if batched else tensor.shape
    dims = ", ".join("-1" if isinstance(axis, str) else str(axis) for axis in axes)
    kind = tensor.dtype.upper().replace("FLOAT", "FP")
    return f'{side} [ {{ name: "{tensor.name}" data_type: TYPE_{kind} dims: [ {dims} ] }} ]'
