"""Wraps foreign ONNX models: nodes of ours before and after the graph make it take and return an artifact's values.

The foreign graph stays as it is. Names that begin with `zorse_` are those of our nodes.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, inliner, numpy_helper, version_converter

from export.declared import Declared
from export.errors import ImporterError
from export.graph import DEFAULT_OPSET, faults, graphs, nodes, value_info
from export.interface import DEFAULT_MAX_SIZE, IMAGE, LATENT, SOURCE, Interface, SizeLimits
from export.manifest import GREY_LEVELS
from export.onnx_sizes import example_latents, find_size_limits
from export.onnx_source import OnnxSource, open_foreign, run_foreign
from export.pixels import BYTES, generator_interface, translator_interface
from zorse_common.errors import first_sentence

_OLDEST_OPSET, _PREFIX, _RESERVED = 7, "zorse_", frozenset({SOURCE, LATENT, IMAGE})
_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
_Step = tuple[str, dict[str, Any], tuple[NDArray[Any], ...]]
"""An operator, its attributes, and its inputs after the first."""


@dataclass(frozen=True)
class WrappedOnnx:
    """A foreign model that takes and returns uint8 images, its interface, and the source that it was made of.

    Axes that cannot vary are fixed in the interface.
    """

    source: OnnxSource
    model: onnx.ModelProto
    interface: Interface


def wrap_onnx(
    model: onnx.ModelProto,
    declared: Declared,
    *,
    name: str,
    opset: int = DEFAULT_OPSET,
    max_size: int = DEFAULT_MAX_SIZE,
) -> WrappedOnnx:
    """Put nodes around the graph of `model` so that it has an artifact's interface; `name` is for messages.

    A graph older than `opset` (13 or more) is converted to it. Heights and widths that the file leaves open are the
    declared multiples from the smallest on which the model runs up to `max_size`. The batch is open if the images of a
    batch are those that the model makes one by one, whatever the file says; otherwise it is 1.

    Raises:
        ImporterError: it has not one latent vector, or one image, as its input; its output is not an image of the same
            size or scaled by a whole factor; it is not as declared; it draws random numbers; its operators or opset
            cannot be kept; or it does not run.
    """
    plain = inliner.inline_local_functions(model) if model.functions else model
    version = _check_operators(plain, name)
    source = OnnxSource(model, declared, name)
    size, inputs = (None, example_latents(source)) if source.kind == "generator" else find_size_limits(source, max_size)
    output = source.run(inputs[:1])
    upgraded = plain if version >= opset else _upgraded(plain, version, opset, name)
    interface = _interface(source, "batch", size, inputs, output)
    wrapped = _surround(upgraded, source, interface)
    # The batch is open if images made together differ by at most one grey level from those made one by one.
    try:
        is_batch_free = _difference(wrapped, source, inputs) <= 1
    except ImporterError:
        is_batch_free = False
    if not is_batch_free:
        batch = source.input.shape[0]
        if isinstance(batch, int) and batch != 1:
            raise ImporterError(f"{name} makes {batch} images at a time and no others: export it with an open batch")
        interface = _interface(source, 1, size, inputs, output)
        wrapped = _surround(upgraded, source, interface)
        difference = _difference(wrapped, source, inputs[:1])
        if upgraded is not plain and 1 < difference < math.inf:
            raise ImporterError(
                f"{name}: converted from opset {version} to {opset} it makes images {difference:.0f} grey levels off: "
                "export it with a newer opset"
            )
    return WrappedOnnx(source, wrapped, interface)


def _interface(
    source: OnnxSource, batch: int | str, size: SizeLimits | None, inputs: NDArray[Any], output: NDArray[Any]
) -> Interface:
    """Return the interface of the wrapped model; `inputs` and `output` are examples in its layout."""
    if size is None:
        _, *image_axes = output.shape
        return generator_interface(BYTES, batch, inputs.shape[-1], tuple(image_axes))
    names = zip(source.size_axes, ("height", "width"), strict=True)
    axes = tuple(axis if isinstance(axis, int) else name for axis, name in names)
    scale = output.shape[1] // inputs.shape[1]
    return translator_interface(BYTES, (batch, *axes, inputs.shape[-1]), output.shape[-1], size, scale)


def _check_operators(model: onnx.ModelProto, name: str) -> int:
    """Return the model's opset, after checking that its operators can be part of an artifact."""
    version = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if version < _OLDEST_OPSET:
        raise ImporterError(f"{name} has opset {version}: export it with opset {_OLDEST_OPSET} or newer")
    for node in nodes(model.graph):
        if node.domain not in _DOMAINS:
            raise ImporterError(
                f"{name}: {node.op_type} at {node.name or node.output[0]} is an operator of {node.domain}: export it "
                "with ONNX's own operators alone"
            )
    if reasons := faults(model, "cpu"):
        raise ImporterError(f"{name}: {reasons[0]}")
    return version


def _upgraded(model: onnx.ModelProto, version: int, opset: int, name: str) -> onnx.ModelProto:
    try:
        converted = version_converter.convert_version(model, opset)
    except Exception as error:  # the converter's errors have no common base
        what = f"{name}: opset {version} cannot be converted to {opset} ({first_sentence(error)})"
        raise ImporterError(f"{what}: export it with a newer opset") from error
    # Before opset 11 Resize had one coordinate mode only, which the converter does not write into the new node.
    mode = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if version < 11 else {}
    for node in (node for graph in graphs(converted.graph) for node in graph.node if node.op_type == "Resize"):
        present = {attribute.name for attribute in node.attribute}
        node.attribute.extend(helper.make_attribute(key, mode[key]) for key in mode if key not in present)
    return converted


def _surround(model: onnx.ModelProto, source: OnnxSource, interface: Interface) -> onnx.ModelProto:
    """Return the graph of `model` between nodes of ours, without the shapes that the file gives its inner values."""
    (input_spec,), (output_spec,) = interface.inputs, interface.outputs
    graph = copy.deepcopy(model.graph)
    renamed = _free_reserved_names(graph)
    first, last = (renamed.get(arg.name, arg.name) for arg in (source.input, source.output))
    constants: list[TensorProto] = []
    before = _chain(input_spec.name, first, _steps_before(source), constants)
    after = _chain(last, output_spec.name, _steps_after(source), constants)
    for inner in graphs(graph):
        for number, node in enumerate(inner.node):
            del node.metadata_props[:]
            node.ClearField("doc_string")
            # Targets and proofs refer to nodes by their names.
            node.name = node.name or f"{node.op_type}_{number}"
    initializers = [*graph.initializer, *constants]
    whole = helper.make_graph(
        [*before, *graph.node, *after],
        graph.name or "graph",
        [value_info(input_spec)],
        [value_info(output_spec)],
        initializers,
        sparse_initializer=graph.sparse_initializer,
    )
    opsets = list(model.opset_import)
    version = helper.find_min_ir_version_for(opsets, ignore_unknown=True)
    return helper.make_model(whole, producer_name="zorse", opset_imports=opsets, ir_version=version)


def _free_reserved_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Rename, in place, the values that have reserved names; return the new names by the old."""
    every = list(nodes(graph))
    names = {name for node in every for name in (*node.input, *node.output)}
    prefix = "original_"
    while any(name.startswith(prefix) for name in names):
        prefix += "_"
    renamed = {name: prefix + name for name in names if name in _RESERVED or name.startswith(_PREFIX)}
    for node in every:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.name = prefix + node.name if node.name.startswith(_PREFIX) else node.name
    for inner in graphs(graph):
        sparse = [tensor.values for tensor in inner.sparse_initializer]
        for entry in (*inner.input, *inner.output, *inner.value_info, *inner.initializer, *sparse):
            entry.name = renamed.get(entry.name, entry.name)
    return renamed


def _steps_before(source: OnnxSource) -> list[_Step]:
    """Return the steps from an artifact's input to the foreign model's, in float32 and without rounding."""
    declared, half = source.declared, source.input.dtype is np.float16
    steps: list[_Step] = []
    if source.kind == "generator":
        if len(source.input.shape) == 4:
            steps.append(("Unsqueeze", {}, (np.array([2, 3] if source.channels_first else [1, 2]),)))
    else:
        if source.channels_first:
            steps.append(("Transpose", {"perm": [0, 3, 1, 2]}, ()))
        if source.input.dtype is not np.uint8:
            low, high = declared.input_bounds
            scale = (high - low) / GREY_LEVELS / np.array(declared.std)
            offset = (low - np.array(declared.mean)) / declared.std
            shape = (-1, 1, 1) if source.channels_first else (-1,)
            steps.append(("Cast", {"to": TensorProto.FLOAT}, ()))
            steps += [(op, {}, (x.reshape(shape).astype(np.float32),)) for op, x in (("Mul", scale), ("Add", offset))]
    return [*steps, ("Cast", {"to": TensorProto.FLOAT16}, ())] if half else steps


def _steps_after(source: OnnxSource) -> list[_Step]:
    """Return the steps from the foreign model's output to an artifact's: range 0..255, rounded half to even."""
    steps: list[_Step] = []
    if source.output.dtype is not np.uint8:
        low, high = source.declared.output_bounds
        scale, offset = np.float32(GREY_LEVELS / (high - low)), np.float32(-low * GREY_LEVELS / (high - low))
        if source.output.dtype is np.float16:
            steps.append(("Cast", {"to": TensorProto.FLOAT}, ()))
        steps += [("Mul", {}, (np.array(scale),)), ("Add", {}, (np.array(offset),)), ("Round", {}, ())]
        steps.append(("Clip", {}, (np.array(0, np.float32), np.array(GREY_LEVELS, np.float32))))
        steps.append(("Cast", {"to": TensorProto.UINT8}, ()))
    return [*steps, ("Transpose", {"perm": [0, 2, 3, 1]}, ())] if source.channels_first else steps


def _chain(start: str, end: str, steps: list[_Step], constants: list[TensorProto]) -> list[onnx.NodeProto]:
    """Return nodes that compute the value `end` from the value `start`; their constants are added to `constants`."""
    chain: list[onnx.NodeProto] = []
    value, steps = start, steps or [("Identity", {}, ())]
    for number, (operator, attributes, arrays) in enumerate(steps):
        name = f"{_PREFIX}{start}_{number}"
        names = [f"{name}_{index}" for index in range(len(arrays))]
        constants += [numpy_helper.from_array(array, key) for array, key in zip(arrays, names, strict=True)]
        output = end if number == len(steps) - 1 else name
        chain.append(helper.make_node(operator, [value, *names], [output], name=name, **attributes))
        value = output
    return chain


def _difference(wrapped: onnx.ModelProto, source: OnnxSource, inputs: NDArray[Any]) -> float:
    """Return the largest difference in grey levels between the wrapped and the foreign model's images."""
    expected = source.images(inputs)
    images = run_foreign(open_foreign(wrapped, source.name), inputs, source.name)
    return float(np.abs(expected - images).max()) if images.shape == expected.shape else math.inf
