"""ONNX with weights and activations in float16: half the size, and twice the speed on GPUs that have it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.graph import sort_nodes
from export.targets.base import Target, register

_NORMS = ["InstanceNormalization", "BatchNormalization", "LayerNormalization", "GroupNormalization", "ReduceMean"]
_OURS = ("image/", "zorse_")
"""How the names of nodes begin that are around a network of ours, and around a foreign model."""


def variants(model: onnx.ModelProto, samples: Sequence[NDArray[Any]]) -> Iterator[onnx.ModelProto]:
    """Implements `export.targets.base.Variants`: norms stay in float32 where the proof needs it.

    Bringing images to grey levels stays in float32 always: float16 has steps of an eighth there.
    """
    outside = [node.name for node in model.graph.node if node.name.startswith(_OURS)]
    for kept in ([], _NORMS):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        made = convert_float_to_float16(
            copy, keep_io_types=True, op_block_list=[*DEFAULT_OP_BLOCK_LIST, *kept], node_block_list=outside
        )
        sort_nodes(made.graph)
        yield made


register(Target("onnx-fp16", variants, tolerance=2, psnr=45, replay=4, layer_tolerance=3e-2, smallest=16))
