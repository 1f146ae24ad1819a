"""Checks a network before it is converted, and names what is wrong, at which layer, and what to do."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from export.errors import RefusedError, UnsupportedGraphError
from export.wrapper import TraceableModel
from zorse_common.errors import first_sentence

_SURPRISING = {torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128}


def trace(traceable: TraceableModel, name: str) -> ExportedProgram:
    """Trace the model with torch.export, after checking that it can be exported; `name` is for messages.

    Raises:
        RefusedError: lists every obstacle with its layer: non-finite weights, active dropout, random operators, batch
            statistics, a wrong output shape, an unexpected dtype, data-dependent or fixed shapes.
    """
    faults = [*_weights(traceable.graph), *_shapes(traceable)]
    if not faults:
        try:
            program = _program(traceable)
        except Exception as error:  # noqa: BLE001 - what torch.export refuses with has no common base
            faults = [_untraceable(error)]
        else:
            faults = list(dict.fromkeys(_operators(program)))
    if faults:
        raise RefusedError(f"{name} cannot be exported", [UnsupportedGraphError(text) for text in faults])
    return program


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the messages that torch's exporter and onnxruntime's tools print on every run, up to warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        logging.disable(logging.NOTSET)


def _weights(graph: nn.Module) -> Iterator[str]:
    for key, tensor in graph.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            yield f"weights are not finite ({_plain(key)}): export an earlier snapshot"
            return


def _shapes(traceable: TraceableModel) -> Iterator[str]:
    """Run the example once: its image must have the promised shape."""
    interface, first = traceable.interface, traceable.example[0]
    output, batch = interface.outputs[0], first.shape[0]
    sides = tuple(side * interface.scale for side in first.shape[1:3]) if interface.size else output.shape[1:3]
    expected = (batch, output.shape[-1], *sides)
    with torch.inference_mode():
        try:
            values: object = traceable.graph.values(*traceable.example)
        except Exception as error:  # noqa: BLE001 - a network of any origin raises what it likes
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in traceable.example)
            yield f"it does not run on {shapes} ({first_sentence(error)})"
            return
    if not isinstance(values, torch.Tensor):
        yield f"it gives a {type(values).__name__} and should give one tensor of images"
        return
    shape = tuple(values.shape)
    if shape == expected:
        return
    if shape == (batch, *sides, expected[1]):
        yield f"its images are {list(shape)}, channels last: transpose them to [batch, channels, height, width]"
    elif shape == (*expected[:2], sides[1], sides[0]):
        yield f"its images are {list(shape)}, height and width swapped: transpose them to {list(expected)}"
    elif len(shape) == 4 and shape[:2] == expected[:2]:
        wrong, right = (f"{width}×{height}" for *_, height, width in (shape, expected))
        yield f"its images are {wrong} and should be {right}: check its padding and strides"
    else:
        yield f"its images are {list(shape)} and should be {list(expected)}"


def _program(traceable: TraceableModel) -> ExportedProgram:
    dynamic = tuple(
        {axis: Dim.DYNAMIC for axis, name in enumerate(spec.shape) if isinstance(name, str)}
        for spec in traceable.interface.inputs
    )
    with quiet():
        # The module takes `*inputs`, which torch counts as one argument.
        return torch.export.export(traceable.graph, traceable.example, dynamic_shapes=(dynamic,), strict=False)


def _untraceable(error: Exception) -> str:
    text = first_sentence(error)
    if "data-dependent" in str(error) or type(error).__name__.startswith("GuardOnDataDependent"):
        return f"a shape or a branch depends on the images' values ({text}): make it depend on their shape alone"
    return f"torch cannot trace it with a free batch, height and width ({text})"


def _operators(program: ExportedProgram) -> Iterator[str]:
    for node in program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        schema = node.target._schema
        operator = schema.name.removeprefix("aten::").removesuffix("_")
        where, active = f"{operator} at {_layer(node)}", _switch(node)
        is_random = torch.Tag.nondeterministic_seeded in node.target.tags and active is not False
        # Attention has no dropout in its name, but an argument `dropout_p`.
        if is_random and "dropout" in str(schema):
            yield f"{where} is live: let dropout follow eval()"
        elif is_random:
            yield f"{where} draws random numbers: make noise an input of the network"
        elif "batch_norm" in operator and active:
            yield f"{where} uses the statistics of the batch: use running ones, or instance norm"
        elif node.meta.get("unbacked_bindings"):
            yield f"{where} gives a shape that depends on the images' values: make it depend on their shape alone"
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype in _SURPRISING:
            kind = str(value.dtype).removeprefix("torch.")
            yield f"{where} computes in {kind}: keep the network in float32, targets change the precision"


def _switch(node: torch.fx.Node) -> bool | None:
    """Return whether the operator's argument for training, or its dropout, is on; None if it has no such argument."""
    for index, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if argument.name in ("train", "training", "dropout_p"):
            default = node.kwargs.get(argument.name, argument.default_value)
            return bool(node.args[index] if index < len(node.args) else default)
    return None


def _layer(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()), ("", ""))
    name = str(kind).rsplit(".", 1)[-1].rstrip("'>")
    return f"{_plain(path)} ({name})" if _plain(path) else name


def _plain(path: str) -> str:
    """Return a module's path within the network."""
    return path.removeprefix("network").removeprefix(".")
