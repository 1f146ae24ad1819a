"""Reads foreign ONNX files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper

from export.errors import ImporterError
from export.graph import graphs
from zorse_common.errors import first_sentence


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


def _weight_files(model: onnx.ModelProto) -> list[str]:
    """Return the names of the files of weights that the model's own file refers to, sorted."""
    tensors = (tensor for graph in graphs(model.graph) for tensor in _tensors(graph))
    entries = (entry for tensor in tensors for entry in tensor.external_data if entry.key == "location")
    return sorted({entry.value for entry in entries})


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
