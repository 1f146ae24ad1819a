"""Converts a traced torch program to an ONNX model in float32."""

from __future__ import annotations

import ast

import onnx
import torch
from torch.export import ExportedProgram

from export.errors import UnsupportedGraphError
from export.graph import DEFAULT_OPSET, shape_arithmetic, value_info
from export.interface import Interface
from export.lint import quiet


def convert(program: ExportedProgram, interface: Interface, opset: int = DEFAULT_OPSET) -> onnx.ModelProto:
    """Return the traced program as an ONNX model with the inputs and outputs of `interface`.

    Nodes are named `<layer>/<operator>`, where the layer is the module's path in the network.

    Raises:
        UnsupportedGraphError: torch has no ONNX operator for something, or it computes with shapes.
    """
    try:
        with quiet():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[spec.name for spec in interface.inputs],
                output_names=[spec.name for spec in interface.outputs],
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n", 1)[0]
        raise UnsupportedGraphError(f"torch cannot export the network to ONNX: {reason}") from error
    assert converted is not None
    model = converted.model_proto
    _name_nodes(model.graph)
    _drop_notes(model)
    values, specs = (*model.graph.input, *model.graph.output), (*interface.inputs, *interface.outputs)
    for value, spec in zip(values, specs, strict=True):
        value.CopyFrom(value_info(spec))
    if computed := shape_arithmetic(model):
        raise UnsupportedGraphError(
            f"the network computes with shapes ({', '.join(computed)}), which CUDA graphs and TensorRT do badly: use "
            "interpolate(scale_factor=…) and flatten() rather than sizes of tensors"
        )
    return model


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken: dict[str, int] = {}
    for node in graph.node:
        notes = {entry.key: entry.value for entry in node.metadata_props}
        scopes = ast.literal_eval(notes.get("pkg.torch.onnx.name_scopes", "[]"))[:-1]
        # Nodes that torch added, such as those that read a shape, belong to no module.
        scopes = [scope if scope.partition(".")[0] == "network" else "network" for scope in scopes if scope]
        layer = scopes[-1] if scopes else "image"
        name = f"{layer.removeprefix('network.')}/{node.op_type}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def _drop_notes(model: onnx.ModelProto) -> None:
    """Remove the metadata of nodes and values, which holds file paths of the machine that exports."""
    for value in (*model.graph.node, model.graph):
        del value.metadata_props[:]
    # Shapes of inner tensors carry the exporter's names of the axes; onnxruntime infers them anew.
    del model.graph.value_info[:]
