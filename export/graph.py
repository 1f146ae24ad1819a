"""Saves, checks, digests and walks ONNX graphs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from export.errors import UnsupportedGraphError
from export.interface import TensorSpec
from export.manifest import MODEL_FILE, WEIGHTS_FILE

OPSETS, DEFAULT_OPSET = range(18, 24), 20
"""The ONNX operator sets that models are exported to."""
INLINE_BYTES = 2**31 - 2**20
"""A model file may not reach 2 GB; larger models keep their weights in a file of their own."""
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)
ON_CUDA = frozenset(
    """Abs Add And ArgMax ArgMin Attention AveragePool BatchNormalization Cast Ceil Clip Compress Concat Constant
    ConstantOfShape Conv ConvTranspose Cos CumSum DeformConv DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal
    Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool GlobalMaxPool
    Greater GreaterOrEqual GridSample HardSigmoid HardSwish Identity If InstanceNormalization IsInf IsNaN LRN LSTM
    LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization MatMul MatMulInteger Max MaxPool
    Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign RotaryEmbedding Round Scan ScatterElements ScatterND
    Selu Shape Shrink Sigmoid Sign Sin Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor""".split()  # noqa: SIM905
)
"""The operators for which onnxruntime 1.31 has a CUDA kernel; it has no way to query them without a GPU. Other
operators run on the CPU."""
_SHAPE_ARITHMETIC = frozenset({"Shape", "Size", "ConstantOfShape", "NonZero", "Range", "Loop", "If", "Scan"})


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield the graph and all graphs within its nodes."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from graphs(inner)


def nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of the graph and of its inner graphs."""
    for inner in graphs(graph):
        yield from inner.node


def faults(model: onnx.ModelProto, provider: str) -> list[str]:
    """Return every reason why a model cannot be an artifact for `provider` ("cuda" or "cpu"), one line each."""
    every = [*nodes(model.graph), *(node for function in model.functions for node in function.node)]
    false, reasons = _false_values(model.graph, every), []
    for node in every:
        where = f"{node.op_type} at {node.name or node.output[0]}"
        if node.op_type in RANDOM:
            reasons.append(f"{where} draws random numbers: make noise an input of the network")
        # The third input of a Dropout says whether it drops values.
        elif node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] not in false:
            reasons.append(f"{where} is live: export the network for inference")
        elif any(entry.name == "training_mode" and entry.i for entry in node.attribute):
            reasons.append(f"{where} uses the statistics of the batch: export the network for inference")
    if provider == "cuda":
        missing = sorted({node.op_type for node in every} - ON_CUDA - RANDOM)
        if missing:
            reasons.append(
                f"onnxruntime has no CUDA kernel for {', '.join(missing)} and would run them on the CPU: "
                "use other operators, or say --provider cpu"
            )
    return reasons


def _false_values(graph: onnx.GraphProto, every: Iterable[onnx.NodeProto]) -> set[str]:
    """Return the names of values that are always false, with "", which stands for an absent input."""
    constants = {tensor.name: tensor for inner in graphs(graph) for tensor in inner.initializer}
    constants |= {node.output[0]: node.attribute[0].t for node in every if node.op_type == "Constant"}
    booleans = {name: tensor for name, tensor in constants.items() if tensor.data_type == onnx.TensorProto.BOOL}
    return {"", *(name for name, tensor in booleans.items() if not numpy_helper.to_array(tensor).any())}


def shape_arithmetic(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that compute with shapes, which CUDA graphs cannot run."""
    return [node.name for node in nodes(model.graph) if node.op_type in _SHAPE_ARITHMETIC]


def save(model: onnx.ModelProto, folder: Path, inline_bytes: int = INLINE_BYTES) -> None:
    """Write `model.onnx` into `folder`, and `model.onnx.data` if the weights have more than `inline_bytes`."""
    path = folder / MODEL_FILE
    if not is_large(model, inline_bytes):
        path.write_bytes(model.SerializeToString())
        return
    # `save_model` moves the weights out of the model that it gets.
    onnx.save_model(
        copy.deepcopy(model), str(path), save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=1024
    )


def check(folder: Path) -> None:
    """Check the model in `folder` by ONNX's own rules.

    Raises:
        UnsupportedGraphError: it breaks them.
    """
    try:
        onnx.checker.check_model(str(folder / MODEL_FILE))
    except onnx.checker.ValidationError as error:
        raise UnsupportedGraphError(f"the graph breaks ONNX's rules ({' '.join(str(error).split())})") from error


def is_large(model: onnx.ModelProto, inline_bytes: int = INLINE_BYTES) -> bool:
    """Return whether the weights have more than `inline_bytes`, and so do not fit into the model's file."""
    return bool(sum(tensor.ByteSize() for tensor in model.graph.initializer) > inline_bytes)


def value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    """Return the declaration of an input or output of a graph."""
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.shape)


def graph_digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the graph without the values of its weights: equal for models that differ only in those."""
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = bare.graph
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def weights_digest(model: onnx.ModelProto) -> str:
    """Return the SHA-256 of the weights: names, types, shapes and values."""
    total = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda tensor: tensor.name):
        total.update(f"{tensor.name} {tensor.data_type} {list(tensor.dims)}".encode())
        total.update(np.ascontiguousarray(numpy_helper.to_array(tensor)).tobytes())
    return total.hexdigest()


def sort_nodes(graph: onnx.GraphProto) -> None:
    """Sort the nodes in place, so that each comes after the nodes whose outputs it takes."""
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output}
    needs = {index: {makers[name] for name in node.input if name in makers} for index, node in enumerate(graph.node)}
    ordered = [copy.deepcopy(graph.node[index]) for index in TopologicalSorter(needs).static_order()]
    del graph.node[:]
    graph.node.extend(ordered)


def layer_outputs(model: onnx.ModelProto) -> dict[str, str]:
    """Return the last output of each layer by the layer's name, which is the part of node names before the last `/`."""
    named = [node for node in model.graph.node if node.name]
    return {node.name.rpartition("/")[0] or node.name: node.output[0] for node in named}


def with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """Return a copy of `model` with the tensors `names` as further outputs."""
    opened = copy.deepcopy(model)
    there = {value.name for value in model.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return opened
