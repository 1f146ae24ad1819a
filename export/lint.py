"""What is wrong with a network is said before it is converted, with the layer and what to do."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from export.errors import RefusedError, UnsupportedGraphError
from export.wrapper import Wrapped
from zorse_common.errors import first_sentence

_RANDOM = frozenset(
    {"rand", "rand_like", "randn", "randn_like", "randint", "randint_like", "randperm", "bernoulli", "multinomial"}
    | {"normal", "normal_functional", "uniform", "exponential", "poisson", "cauchy", "log_normal", "geometric"}
)
_DROPOUT = frozenset(
    {"dropout", "native_dropout", "alpha_dropout", "feature_dropout", "feature_alpha_dropout"}
    | {"scaled_dot_product_attention"}
)
_BATCH_NORM = frozenset(
    {"batch_norm", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional"}
)
_LOGGERS = ("torch.onnx._internal.exporter._registration", "torch.fx.experimental.symbolic_shapes")
_SURPRISING = {torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128}


def trace(wrapped: Wrapped, name: str) -> ExportedProgram:
    """The graph as torch's program, once nothing in it keeps it from becoming an artifact.

    Raises:
        RefusedError: everything that does, each with its layer: weights that are not finite, live dropout, random
            numbers, statistics of the batch, images of another shape than promised, a precision that was not meant,
            shapes that depend on the data or cannot vary.
    """
    found = [*_weights(wrapped.graph), *_shapes(wrapped)]
    if not found:
        try:
            program = _program(wrapped)
        except Exception as error:  # noqa: BLE001 - what torch.export refuses with has no common base
            found = [_untraceable(error)]
        else:
            found = list(dict.fromkeys(_operators(program)))
    if found:
        raise RefusedError(f"{name} cannot be exported", [UnsupportedGraphError(text) for text in found])
    return program


@contextmanager
def quiet() -> Iterator[None]:
    """Keep back what torch's exporter says on every run, its own deprecations, and graphs that it fails on."""
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.filterwarnings("ignore", message=r".*LeafSpec.* is deprecated", category=FutureWarning)
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)


def _weights(graph: nn.Module) -> Iterator[str]:
    for key, tensor in graph.state_dict().items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            yield f"weights are not finite ({_plain(key)}): export an earlier snapshot"
            return


def _shapes(wrapped: Wrapped) -> Iterator[str]:
    """Run the example once: its image must have the promised shape."""
    batch, *_ = wrapped.example.shape
    edges = wrapped.example.shape[1:3] if wrapped.size else wrapped.made.shape[1:3]
    expected = (batch, wrapped.made.shape[-1], *edges)
    with torch.inference_mode():
        try:
            values: object = wrapped.graph.values(wrapped.example)
        except Exception as error:  # noqa: BLE001 - a network of any origin raises what it likes
            yield f"it does not run on {tuple(wrapped.example.shape)} ({first_sentence(error)})"
            return
    if not isinstance(values, torch.Tensor):
        yield f"it gives a {type(values).__name__} and should give one tensor of images"
        return
    shape = tuple(values.shape)
    if shape == expected:
        return
    if shape == (batch, *edges, expected[1]):
        yield f"its images are {list(shape)}, channels last: transpose them to [batch, channels, height, width]"
    elif shape == (*expected[:2], edges[1], edges[0]):
        yield f"its images are {list(shape)}, height and width swapped: transpose them to {list(expected)}"
    elif len(shape) == 4 and shape[:2] == expected[:2]:
        wrong, right = (f"{width}×{height}" for *_, height, width in (shape, expected))
        yield f"its images are {wrong} and should be {right}: check its padding and strides"
    else:
        yield f"its images are {list(shape)} and should be {list(expected)}"


def _program(wrapped: Wrapped) -> ExportedProgram:
    dynamic = {axis: Dim.DYNAMIC for axis, name in enumerate(wrapped.given.shape) if isinstance(name, str)}
    with quiet():
        return torch.export.export(wrapped.graph, (wrapped.example,), dynamic_shapes=(dynamic,), strict=False)


def _untraceable(error: Exception) -> str:
    text = first_sentence(error)
    if "data-dependent" in str(error) or type(error).__name__.startswith("GuardOnDataDependent"):
        return f"a shape or a branch depends on the images' values ({text}): make it depend on their shape alone"
    return f"torch cannot trace it with a free batch, height and width ({text})"


def _operators(program: ExportedProgram) -> Iterator[str]:
    for node in program.graph.nodes:
        if node.op != "call_function" or not hasattr(node.target, "_schema"):
            continue
        operator = node.target._schema.name.removeprefix("aten::").removesuffix("_")
        where = f"{operator} at {_layer(node)}"
        if operator in _RANDOM or (operator == "rrelu" and _flag(node, "training")):
            yield f"{where} draws random numbers: make noise an input of the network"
        elif operator in _DROPOUT and _flag(node, "train", "training", "dropout_p"):
            yield f"{where} is live: let dropout follow eval()"
        elif operator in _BATCH_NORM and _flag(node, "training", "train"):
            yield f"{where} uses the statistics of the batch: use running ones, or instance norm"
        elif _has_free_symbols(node):
            yield f"{where} gives a shape that depends on the images' values: make it depend on their shape alone"
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and value.dtype in _SURPRISING:
            kind = str(value.dtype).removeprefix("torch.")
            yield f"{where} computes in {kind}: keep the network in float32, targets change the precision"


def _flag(node: torch.fx.Node, *names: str) -> bool:
    """The value of the operator's argument that has one of `names`."""
    arguments = node.target._schema.arguments  # type: ignore[union-attr]
    for index, argument in enumerate(arguments):
        if argument.name in names:
            given = (
                node.args[index] if index < len(node.args) else node.kwargs.get(argument.name, argument.default_value)
            )
            return bool(given)
    return False


def _has_free_symbols(node: torch.fx.Node) -> bool:
    return bool(node.meta.get("unbacked_bindings"))


def _layer(node: torch.fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path, kind = next(reversed(stack.values()), ("", ""))
    name = str(kind).rsplit(".", 1)[-1].rstrip("'>")
    return f"{_plain(path)} ({name})" if _plain(path) else name


def _plain(path: str) -> str:
    """A module's path from the network on."""
    return path.removeprefix("network").removeprefix(".")
