"""ONNX in float32 inside and uint8 outside, by torch's exporter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
import torch
from torch import nn

from export.errors import UnsupportedGraphError
from export.manifest import Tensor as Port
from export.targets.base import Target, register

OPSET = 20
# An artifact gives the same image for the same input, so noise must be an input and dropout must be off.
_RANDOM = frozenset(
    {"Bernoulli", "Dropout", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)


def convert(
    graph: nn.Module, example: torch.Tensor, given: Port, made: Port, metadata: dict[str, str]
) -> onnx.ModelProto:
    """Implements `export.targets.base.Convert`."""
    dynamic = {axis: name for axis, name in enumerate(given.shape) if isinstance(name, str)}
    try:
        with _quiet():
            program = torch.onnx.export(
                graph,
                (example,),
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=[given.name],
                output_names=[made.name],
                dynamic_shapes=(dynamic,),
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().split("\n", 1)[0]
        raise UnsupportedGraphError(f"torch cannot export the network to ONNX: {reason}") from error
    assert program is not None
    model = program.model_proto
    _refuse_randomness(model)
    _tidy(model, made)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    return model


def _refuse_randomness(model: onnx.ModelProto) -> None:
    nodes = [*_nodes(model.graph.node), *(node for function in model.functions for node in _nodes(function.node))]
    random = [f"{node.op_type} at {_place(node)}" for node in nodes if node.op_type in _RANDOM]
    if random:
        raise UnsupportedGraphError(
            f"the graph draws random numbers ({'; '.join(random)}): make noise an input of the network "
            "and let dropout follow eval()"
        )


def _nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner.node)


def _place(node: onnx.NodeProto) -> str:
    """Where in the network the node was made, such as `DcganGenerator/layers: Sequential/dropout`."""
    notes: dict[str, str] = {entry.key: entry.value for entry in node.metadata_props}
    return notes.get("namespace", node.name).removeprefix(": ")


def _tidy(model: onnx.ModelProto, made: Port) -> None:
    """Drop the exporter's notes (they hold paths of this machine) and name the output's axes as the input's."""
    for node in model.graph.node:
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    del model.graph.metadata_props[:]
    for axis, dimension in zip(made.shape, model.graph.output[0].type.tensor_type.shape.dim, strict=True):
        if isinstance(axis, str):
            dimension.dim_param = axis


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what the exporter says on every run: that torchvision is absent, and torch's own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


register(Target("onnx", OPSET, 1, convert))
