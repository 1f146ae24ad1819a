"""Reads foreign ONNX files, and runs their models without any change to the graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import external_data_helper

from export.declared import BYTE_RANGE, Declared
from export.errors import ImporterError
from export.graph import graphs, with_outputs
from export.interface import Kind
from export.manifest import GREY_LEVELS
from zorse_common.errors import first_sentence

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
}


def load_onnx(path: Path) -> tuple[onnx.ModelProto, str]:
    """Return the model in the file `path` with all its weights, and the SHA-256 of the file and of those beside it.

    Raises:
        ImporterError: it cannot be read, is no ONNX file, holds no graph, or weights are missing.
    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ImporterError(f"{path} cannot be read ({error.strerror}): give an ONNX file") from error
    except Exception as error:  # what broken bytes make protobuf raise has no base that onnx names
        raise ImporterError(f"{path} is not an ONNX file ({first_sentence(error)}): export it again") from error
    if not model.graph.node:
        raise ImporterError(f"{path} is not an ONNX file or holds no graph: export it again")
    locations = _weight_files(model)
    try:
        external_data_helper.load_external_data_for_model(model, str(path.parent))
    except Exception as error:  # onnx raises its checker's errors, the system's and ValueError here
        text = first_sentence(error)
        raise ImporterError(f"{path}: its weights cannot be read ({text}): put their file beside it") from error
    total = hashlib.sha256(path.read_bytes())
    for location in locations:
        with (path.parent / location).open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return model, total.hexdigest()


class NodeArg(NamedTuple):
    """An input or output as onnxruntime describes it; a dynamic axis is a name or None."""

    name: str
    dtype: type[np.generic]
    shape: tuple[int | str | None, ...]


class OnnxSource:
    """A foreign model that takes and returns an artifact's values; numpy converts them to the model's own and back.

    `name` is for messages. `size_axes` are the height and width that the file declares.

    Raises:
        ImporterError: the model does not load, or has not exactly one input and one output of a known dtype.
    """

    def __init__(self, model: onnx.ModelProto, declared: Declared, name: str) -> None:
        self.model, self.declared, self.name = model, declared, name
        self._session = open_foreign(model, name)
        self.input, self.output = self._node_args()
        self.channels_first = declared.layout == "NCHW"
        self.size_axes = self.input.shape[2:] if self.channels_first else self.input.shape[1:3]
        is_latent = len(self.input.shape) == 2 or (len(self.input.shape) == 4 and self.size_axes == (1, 1))
        self.kind: Kind = "generator" if is_latent else "translator"
        if self.kind == "translator":
            self._check_byte_input()
        self.clipped = self.value_count = 0
        """How many output values of `images` lay outside black..white by more than a grey level; how many in all."""

    def images(self, inputs: NDArray[Any]) -> NDArray[np.float32]:
        """Return the images of an artifact's `inputs`, float32 [batch, height, width, channels].

        The values are grey levels 0..255 before rounding; values that are not finite stay so. Each row is computed
        alone, so that no image can depend on its neighbours.

        Raises:
            ImporterError: the model does not run on `inputs`.
        """
        low, high = self.declared.output_bounds
        values = np.concatenate([self.run(row[None]) for row in inputs]).astype(np.float32)
        levels = (values - low) / (high - low) * GREY_LEVELS
        self.value_count += levels.size
        self.clipped += int(((levels < -1) | (levels > GREY_LEVELS + 1)).sum())
        return np.where(np.isfinite(levels), np.clip(levels, 0, GREY_LEVELS), levels).astype(np.float32)

    def run(self, row: NDArray[Any]) -> NDArray[Any]:
        """Return the model's own output values [1, h, w, c] for an artifact's latent [1, dim] or image [1, h, w, c].

        Raises:
            ImporterError: the model does not run on `row`, or its output is no image.
        """
        output = run_foreign(self._session, self._model_input(row), self.name)[:1]
        if output.ndim != 4:
            raise ImporterError(
                f"{self.name}: its output {self.output.name} {list(output.shape)} has {output.ndim} axes, and an image "
                f"has 4 (one for the batch): end the network with a reshape to {self.declared.layout} and export it "
                "again"
            )
        return output.transpose(0, 2, 3, 1) if self.channels_first else output

    def inner_values(self, row: NDArray[Any], names: list[str]) -> list[NDArray[Any]]:
        """Return the inner values `names` of the graph for one latent or image.

        Raises:
            ImporterError: the model with these values as outputs does not load.
        """
        session = open_foreign(with_outputs(self.model, names), self.name)
        values: list[NDArray[Any]] = session.run(names, {self.input.name: self._model_input(row)})
        return values

    def in_own_layout(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape [b, h, w, c] in the declared layout."""
        batch, height, width, channels = shape
        return (batch, channels, height, width) if self.channels_first else shape

    def _model_input(self, row: NDArray[Any]) -> NDArray[Any]:
        values = row
        if self.kind == "generator" and len(self.input.shape) == 4:
            values = np.expand_dims(row, (1, 2))
        elif self.kind == "translator" and self.input.dtype is not np.uint8:
            low, high = self.declared.input_bounds
            values = row.astype(np.float32) / GREY_LEVELS * (high - low) + low
            values = (values - np.array(self.declared.mean, np.float32)) / np.array(self.declared.std, np.float32)
        if self.channels_first and values.ndim == 4:
            values = values.transpose(0, 3, 1, 2)
        batch = self.input.shape[0]
        return np.repeat(values.astype(self.input.dtype), batch if isinstance(batch, int) else 1, axis=0)

    def _node_args(self) -> tuple[NodeArg, NodeArg]:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) == 2 and inputs[1].type == "tensor(int64)":
            raise ImporterError(
                f"{self.name} is a conditional generator ({inputs[0].name}, {inputs[1].name}), and those cannot be "
                "imported from ONNX: make the label a constant and export a file for each class"
            )
        only_input, only_output = self._only("input", inputs), self._only("output", outputs)
        if only_output.dtype is np.uint8 and self.declared.output_bounds != BYTE_RANGE:
            raise ImporterError(f"{self.name}: output {only_output.name} is uint8: declare the output range 0..255")
        return only_input, only_output

    def _only(self, side: str, args: Sequence[onnxruntime.NodeArg]) -> NodeArg:
        if len(args) != 1:
            names = ", ".join(arg.name for arg in args)
            raise ImporterError(f"{self.name} has {len(args)} {side}s ({names}): cut it down to one")
        (arg,) = args
        if arg.type not in _DTYPES:
            raise ImporterError(
                f"{self.name}: its {side} {arg.name} is {arg.type}: convert the network to float32 (in PyTorch: "
                ".float()) and export it again"
            )
        if any(isinstance(axis, int) and axis < 1 for axis in arg.shape):
            raise ImporterError(f"{self.name}: {arg.name} {list(arg.shape)} has an axis of nothing: export it again")
        return NodeArg(arg.name, _DTYPES[arg.type], tuple(arg.shape))

    def _check_byte_input(self) -> None:
        plain = (self.declared.input_bounds, self.declared.mean, self.declared.std) == (BYTE_RANGE, (0.0,), (1.0,))
        if self.input.dtype is np.uint8 and not plain:
            raise ImporterError(
                f"{self.name}: input {self.input.name} is uint8: declare the input range 0..255 and no mean or std"
            )


def open_foreign(model: onnx.ModelProto, name: str) -> onnxruntime.InferenceSession:
    """Load `model` on the CPU, without onnxruntime's own log; `name` is for messages.

    Raises:
        ImporterError: onnxruntime does not load it.
    """
    try:
        content = bytes(model.SerializeToString())
    except Exception as error:  # protobuf's errors have no base that onnx names
        raise ImporterError(f"{name} is above 2 GB: export it in half precision") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base
        remedy = (
            "export it in float32" if "NOT_IMPLEMENTED" in str(error) else "export it again with ONNX's own operators"
        )
        raise ImporterError(f"{name}: onnxruntime does not load it ({first_sentence(error)}): {remedy}") from error


def run_foreign(session: onnxruntime.InferenceSession, inputs: NDArray[Any], name: str) -> NDArray[Any]:
    """Return the one output for the one input; `name` is for messages.

    Raises:
        ImporterError: it does not run.
    """
    try:
        output: NDArray[Any] = session.run(None, {session.get_inputs()[0].name: inputs})[0]
    except Exception as error:  # onnxruntime's errors have no common base
        raise ImporterError(
            f"{name} does not run on the input {list(inputs.shape)} ({first_sentence(error)})"
        ) from error
    return output


def _weight_files(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files of weights that the model's own file refers to, sorted."""
    tensors = (tensor for graph in graphs(model.graph) for tensor in _tensors(graph))
    entries = (entry for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return sorted({entry.value for entry in entries})


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
