"""ONNX with weights and activations in float16: half the size, and twice the speed on GPUs that have it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import onnx
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from export.feeds import Feeds
from export.graph import graphs, nodes, sort_nodes
from export.targets.base import Target, Variant, register

_NORMS = ["InstanceNormalization", "BatchNormalization", "LayerNormalization", "GroupNormalization", "ReduceMean"]
_OURS = ("image/", "zorse_")
"""Prefixes of the names of the nodes around a network of ours, and around a foreign model."""


def variants(model: onnx.ModelProto, samples: Sequence[Feeds]) -> Iterator[Variant]:
    """Implements `export.targets.base.Variants`: first with norms in float16, then with norms in float32.

    The conversion of images to grey levels is always in float32: near 255, float16 has steps of 1/8.
    """
    around = [node.name for node in model.graph.node if node.name.startswith(_OURS)]
    for norms, decomposed in (([], []), (_NORMS, decomposed_norms(model.graph))):
        kept, outside = [*DEFAULT_OP_BLOCK_LIST, *norms], [*around, *decomposed]
        # The converter works in place.
        converted = convert_float_to_float16(
            copy.deepcopy(model), keep_io_types=True, op_block_list=kept, node_block_list=outside
        )
        _drop_detours(converted.graph, {node.name for node in model.graph.node})
        sort_nodes(converted.graph)
        in_float32 = {node.name for node in model.graph.node if node.op_type in kept} | set(outside)
        yield Variant(converted, _rounding(model, in_float32))


def decomposed_norms(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes of norms that an old exporter wrote as single operators.

    Such a norm is (x - mean(x)) / sqrt(mean((x - mean(x))²) + eps): between a Div (or the Reciprocal of the same) and
    the ReduceMean of x there are Sqrt, Add, ReduceMean, Pow or Mul, and Sub.
    """
    makers = {name: node for node in graph.node for name in node.output}
    names: dict[str, None] = {}
    for division in graph.node:
        if division.op_type not in ("Div", "Reciprocal"):
            continue
        chain = [division]
        for wanted in ({"Sqrt"}, {"Add"}, {"ReduceMean"}, {"Pow", "Mul"}, {"Sub"}, {"ReduceMean"}):
            above = [makers[name] for name in chain[-1].input if name in makers and makers[name].op_type in wanted]
            if not above:
                break
            chain.append(above[-1])
        else:
            names |= dict.fromkeys(node.name for node in chain)
    return list(names)


def _drop_detours(graph: onnx.GraphProto, ours: set[str]) -> None:
    """Remove the casts to float16 and back that the converter puts between two nodes in float32.

    `ours` are the names of the nodes that the converter did not add.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast" and node.name not in ours}
    dtypes = {name: helper.get_node_attr_value(cast, "to") for name, cast in casts.items()}
    detours = {}
    for name, back in casts.items():
        down = casts.get(back.input[0])
        if down is not None and (dtypes[down.output[0]], dtypes[name]) == (TensorProto.FLOAT16, TensorProto.FLOAT):
            detours[name] = down.input[0]
    for node in nodes(graph):
        node.input[:] = [detours.get(name, name) for name in node.input]
    outputs = {value.name for inner in graphs(graph) for value in inner.output}
    for name in detours.keys() & outputs:
        casts[name].CopyFrom(helper.make_node("Identity", [detours[name]], [name], name=casts[name].name))
    # Casts back first: after that the cast to float16 may be unused.
    for unused in (detours.keys() - outputs, casts.keys() - detours.keys()):
        used = {name for node in nodes(graph) for name in node.input} | outputs
        for name in unused - used:
            graph.node.remove(casts[name])


def _rounding(model: onnx.ModelProto, in_float32: set[str]) -> onnx.ModelProto:
    """Return `model` in float32 with explicit rounding to float16 of weights, inputs and outputs of every node.

    The nodes `in_float32` are left out. GPUs round like this. onnxruntime's CPU provider instead computes nodes without
    a float16 kernel in float32 and drops the roundings between them: there a value above 65504 stays finite, which
    becomes infinite on a GPU.
    """
    rounding = onnx.shape_inference.infer_shapes(model)
    values = (*rounding.graph.value_info, *rounding.graph.input, *rounding.graph.output)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    floats |= {tensor.name for tensor in rounding.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    ordered: list[onnx.NodeProto] = []
    rounded: dict[str, str] = {}
    born_rounded: set[str] = set()

    def round_value(name: str, layer: str) -> str:
        """Return the name of the rounded value; the casts that round it get names of the layer."""
        if name not in rounded and name in floats:
            half, rounded[name] = f"{name}/float16", f"{name}/rounded"
            down = (name, half, "float16", TensorProto.FLOAT16)
            back = (half, rounded[name], "back", TensorProto.FLOAT)
            for source, result, step, dtype in (down, back):
                label = f"{layer}_{step}_{len(rounded)}"
                ordered.append(helper.make_node("Cast", [source], [result], name=label, to=dtype))
        return rounded.get(name, name)

    for node in rounding.graph.node:
        half = node.name not in in_float32
        node.input[:] = [round_value(name, node.name) if half or name in born_rounded else name for name in node.input]
        ordered.append(node)
        if half:
            born_rounded.update(node.output)
            for name in node.output:
                round_value(name, node.name)
    del rounding.graph.node[:]
    rounding.graph.node.extend(ordered)
    return rounding


register(Target("onnx-fp16", variants, tolerance=2, min_psnr=45, replay_tolerance=4, layer_tolerance=3e-2, smallest=16))
