"""Foreign ONNX files: an image model of any origin is wrapped until it takes and gives bytes as zorse's own models do.

The original graph stays as it is, between a few nodes of ours in front of it and a few behind it; names that begin with
`zorse_` are theirs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from export import original as originals
from export.errors import ImporterError
from export.graph import DEFAULT_OPSET, RANDOM, graphs
from export.interface import DEFAULT_MAX_SIZE, Kind, Latent, SizeLimits, TensorSpec
from export.manifest import GREY_LEVELS
from export.original import Declared, Original
from zorse_common.errors import first_sentence

_OLDEST_OPSET, _PREFIX, _PORTS = 7, "zorse_", frozenset({"source", "latent", "image"})
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_Step = tuple[str, dict[str, Any], tuple[NDArray[Any], ...]]
"""An operator, its attributes, and its inputs after the first."""


@dataclass(frozen=True)
class Foreign:
    """A foreign model that keeps the artifact contract, and its side of it.

    `given` is the graph's one input: `source` uint8 [batch, height, width, channels] of a translator, `latent` float32
    [batch, latent.dim] of a generator. `made` is its one output: `image` uint8 [batch, height, width, channels]. Axes
    that cannot vary are fixed. A translator has a `size` and makes images `scale` times as high and as wide; a
    generator has a `latent`. `original` is what was wrapped.
    """

    original: Original
    model: onnx.ModelProto
    kind: Kind
    given: TensorSpec
    made: TensorSpec
    size: SizeLimits | None
    latent: Latent | None
    scale: int


def wrap_onnx(
    model: onnx.ModelProto,
    declared: Declared,
    *,
    name: str,
    opset: int = DEFAULT_OPSET,
    max_size: int = DEFAULT_MAX_SIZE,
) -> Foreign:
    """Surround `model`, which itself stays as it is, with what makes it keep the contract; `name` is for messages.

    A graph older than `opset` (13 or more) is brought to it. Heights and widths that the file leaves open may be the
    declared multiples from the smallest that it was found to run on up to `max_size`. The batch is open where
    images of a batch were found to be what they are alone, whatever the file says of it, and else 1.

    Raises:
        ImporterError: it is not one latent vector, or one image, in and one image of the same size, or scaled by a
            whole factor, out; it is not as declared; it draws random numbers; its operators or opset cannot be kept; or
            it does not run.
    """
    plain = inliner.inline_local_functions(model) if model.functions else model
    version = _check_operators(plain, name)
    original = Original(model, declared, name)
    size, given = original.examples(max_size)
    made = original.run(given[:1])
    upgraded = plain if version >= opset else _upgraded(plain, version, opset, name)
    ports = _ports(original, "batch", given, made)
    wrapped = _surround(upgraded, original, *ports)
    if not _is_free(wrapped, original, given):
        batch = original.given.shape[0]
        if isinstance(batch, int) and batch != 1:
            raise ImporterError(f"{name} makes {batch} images at a time and no others: export it with an open batch")
        ports = _ports(original, 1, given, made)
        wrapped = _surround(upgraded, original, *ports)
        difference = _difference(wrapped, original, given[:1])
        if upgraded is not plain and 1 < difference < math.inf:
            what = f"{name}: brought from opset {version} to {opset} it makes images {difference:.0f} grey levels off"
            raise ImporterError(f"{what}: export it with a newer opset")
    latent = None if size else Latent(given.shape[-1])
    scale = made.shape[1] // given.shape[1] if size else 1
    return Foreign(original, wrapped, original.kind, *ports, size, latent, scale)


def _check_operators(model: onnx.ModelProto, name: str) -> int:
    """The model's opset, once nothing in its graph keeps it from becoming an artifact."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < _OLDEST_OPSET:
        raise ImporterError(f"{name} has opset {version}: export it with opset {_OLDEST_OPSET} or newer")
    for node in (node for graph in graphs(model.graph) for node in graph.node):
        where = f"{name}: {node.op_type} at {node.name or node.output[0]}"
        if node.domain not in _DOMAINS:
            raise ImporterError(f"{where} is an operator of {node.domain}: export it with ONNX's own operators alone")
        if node.op_type in RANDOM:
            raise ImporterError(f"{where} draws random numbers: export it without them")
        if node.op_type == "Dropout" and len(node.input) > 2 and _may_be_true(model.graph, node.input[2]):
            raise ImporterError(f"{where} is live: export it for inference")
        if any(entry.name == "training_mode" and entry.i for entry in node.attribute):
            raise ImporterError(f"{where} uses the statistics of the batch: export it for inference")
    return version


def _may_be_true(graph: onnx.GraphProto, value: str) -> bool:
    """Whether the boolean `value` is not known to be false."""
    for inner in graphs(graph):
        constants = [entry for entry in inner.initializer if entry.name == value]
        constants += [node.attribute[0].t for node in inner.node if node.op_type == "Constant" and value in node.output]
        if constants:
            return bool(numpy_helper.to_array(constants[0]))
    return bool(value)


def _upgraded(model: onnx.ModelProto, version: int, opset: int, name: str) -> onnx.ModelProto:
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's errors have no common base
        what = f"{name}: opset {version} cannot be brought to {opset} ({first_sentence(error)})"
        raise ImporterError(f"{what}: export it with a newer opset") from error
    # Before opset 11 there was one way to find a pixel's place, and the converter does not say that it was that one.
    way = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if version < 11 else {}
    for node in (node for graph in graphs(converted.graph) for node in graph.node if node.op_type == "Resize"):
        said = {attribute.name for attribute in node.attribute}
        node.attribute.extend(helper.make_attribute(key, way[key]) for key in way if key not in said)
    return converted


def _ports(
    original: Original, batch: int | str, given: NDArray[Any], made: NDArray[Any]
) -> tuple[TensorSpec, TensorSpec]:
    """The two ports of the wrapped model, which makes such as `made` of such as `given`, as many as `batch` says."""
    if original.kind == "generator":
        code = TensorSpec("latent", "float32", (batch, given.shape[-1]), "independent standard normal numbers")
        return code, TensorSpec("image", "uint8", (batch, *made.shape[1:]), "the generated image", (0, GREY_LEVELS))
    axes = zip(original.edges, ("height", "width"), strict=True)
    edges = tuple(edge if isinstance(edge, int) else axis for edge, axis in axes)
    source = TensorSpec("source", "uint8", (batch, *edges, given.shape[-1]), "the image to translate", (0, GREY_LEVELS))
    scale = made.shape[1] // given.shape[1]
    scaled = tuple(
        edge * scale if isinstance(edge, int) else edge if scale == 1 else f"{edge}_x{scale}" for edge in edges
    )
    return source, TensorSpec(
        "image", "uint8", (batch, *scaled, made.shape[-1]), "the translated image", (0, GREY_LEVELS)
    )


def _surround(model: onnx.ModelProto, original: Original, given: TensorSpec, made: TensorSpec) -> onnx.ModelProto:
    """The graph of `model` between nodes of ours; the shapes that the file gives its values are left out."""
    graph = onnx.GraphProto()
    graph.CopyFrom(model.graph)
    renamed = _make_way(graph)
    first, last = (renamed.get(port.name, port.name) for port in (original.given, original.made))
    constants: list[TensorProto] = []
    before = _chain(given.name, first, _before(original), constants)
    after = _chain(last, made.name, _after(original), constants)
    for inner in graphs(graph):
        for number, node in enumerate(inner.node):
            del node.metadata_props[:]
            node.ClearField("doc_string")
            # Targets and proofs speak of nodes by their names.
            node.name = node.name or f"{node.op_type}_{number}"
    ports = [
        helper.make_tensor_value_info(port.name, helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)), port.shape)
        for port in (given, made)
    ]
    initializers = [*graph.initializer, *constants]
    whole = helper.make_graph(
        [*before, *graph.node, *after],
        graph.name or "graph",
        ports[:1],
        ports[1:],
        initializers,
        sparse_initializer=graph.sparse_initializer,
    )
    opsets = list(model.opset_import)
    version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return helper.make_model(whole, producer_name="zorse", opset_imports=opsets, ir_version=version)


def _make_way(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename, in place, the values whose names we need; returns the new names by the old."""
    nodes = [node for inner in graphs(graph) for node in inner.node]
    names = {name for node in nodes for name in (*node.input, *node.output)}
    prefix = "original_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    renamed = {name: prefix + name for name in names if name in _PORTS or name.startswith(_PREFIX)}
    for node in nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.name = prefix + node.name if node.name.startswith(_PREFIX) else node.name
    for inner in graphs(graph):
        sparse = [tensor.values for tensor in inner.sparse_initializer]
        for entry in (*inner.input, *inner.output, *inner.value_info, *inner.initializer, *sparse):
            entry.name = renamed.get(entry.name, entry.name)
    return renamed


def _before(original: Original) -> list[_Step]:
    """What turns an artifact's input into the original's, in float32 and without rounding."""
    declared, half = original.declared, original.given.dtype is np.float16
    steps: list[_Step] = []
    if original.kind == "generator":
        if len(original.given.shape) == 4:
            steps.append(("Unsqueeze", {}, (np.array([2, 3] if original.channels_first else [1, 2]),)))
    else:
        if original.channels_first:
            steps.append(("Transpose", {"perm": [0, 3, 1, 2]}, ()))
        if original.given.dtype is not np.uint8:
            low, high = declared.given_range
            scale = (high - low) / GREY_LEVELS / np.array(declared.std)
            offset = (low - np.array(declared.mean)) / declared.std
            shape = (-1, 1, 1) if original.channels_first else (-1,)
            steps.append(("Cast", {"to": TensorProto.FLOAT}, ()))
            steps += [(op, {}, (x.reshape(shape).astype(np.float32),)) for op, x in (("Mul", scale), ("Add", offset))]
    return [*steps, ("Cast", {"to": TensorProto.FLOAT16}, ())] if half else steps


def _after(original: Original) -> list[_Step]:
    """What turns the original's output into an artifact's: its range becomes 0..255, halves are rounded to even."""
    steps: list[_Step] = []
    if original.made.dtype is not np.uint8:
        low, high = original.declared.made_range
        scale, offset = np.float32(GREY_LEVELS / (high - low)), np.float32(-low * GREY_LEVELS / (high - low))
        if original.made.dtype is np.float16:
            steps.append(("Cast", {"to": TensorProto.FLOAT}, ()))
        steps += [("Mul", {}, (np.array(scale),)), ("Add", {}, (np.array(offset),)), ("Round", {}, ())]
        steps.append(("Clip", {}, (np.array(0, np.float32), np.array(GREY_LEVELS, np.float32))))
        steps.append(("Cast", {"to": TensorProto.UINT8}, ()))
    return [*steps, ("Transpose", {"perm": [0, 2, 3, 1]}, ())] if original.channels_first else steps


def _chain(start: str, end: str, steps: list[_Step], constants: list[TensorProto]) -> list[onnx.NodeProto]:
    """Nodes that make the value `end` of the value `start`; what they need is added to `constants`."""
    nodes, value, chain = [], start, steps or [("Identity", {}, ())]
    for number, (operator, attributes, arrays) in enumerate(chain):
        name = f"{_PREFIX}{start}_{number}"
        names = [f"{name}_{index}" for index in range(len(arrays))]
        constants += [numpy_helper.from_array(array, key) for array, key in zip(arrays, names, strict=True)]
        made = end if number == len(chain) - 1 else name
        nodes.append(helper.make_node(operator, [value, *names], [made], name=name, **attributes))
        value = made
    return nodes


def _is_free(wrapped: onnx.ModelProto, original: Original, given: NDArray[Any]) -> bool:
    """Whether the images of the batch `given` are those that the original makes one by one."""
    try:
        return _difference(wrapped, original, given) <= 1
    except ImporterError:
        return False


def _difference(wrapped: onnx.ModelProto, original: Original, given: NDArray[Any]) -> float:
    """The most grey levels between the images of the wrapped model and those that the original makes one by one."""
    expected = original.images(given)
    made = originals.run(originals.session(wrapped, original.name), given, original.name)
    return float(np.abs(expected - made).max()) if made.shape == expected.shape else math.inf
