"""Runs a model under test in onnxruntime on the CPU, and refuses it with a clear line if that fails."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from numpy.typing import NDArray

from export import graph
from export.errors import ProofError, RefusedError
from export.feeds import Feeds, shape_text
from export.manifest import MODEL_FILE, WEIGHTS_FILE
from export.model_under_test import ModelUnderTest
from zorse_common.errors import first_sentence

_ORT_TYPES = {
    "uint8": "tensor(uint8)",
    "uint16": "tensor(uint16)",
    "float32": "tensor(float)",
    "int64": "tensor(int64)",
}


def not_proved(model: ModelUnderTest, *reasons: str) -> RefusedError:
    """Return the error that refuses `model` for `reasons`."""
    return RefusedError(f"{model.name} is not proved", [ProofError(reason) for reason in reasons])


def open_session(
    model: ModelUnderTest, folder: Path, fixed_axes: Mapping[str, int] | None = None
) -> onnxruntime.InferenceSession:
    """Load the model file in `folder`; `fixed_axes` maps names of dynamic axes to fixed sizes.

    Raises:
        RefusedError: onnxruntime does not load it.
    """
    try:
        return onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), _options(fixed_axes or {}), providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors have no common base
        raise not_proved(model, f"onnxruntime does not load the model ({first_sentence(error)})") from error


def run_session(model: ModelUnderTest, session: onnxruntime.InferenceSession, feeds: Feeds) -> NDArray[Any]:
    """Return the image that `session` makes of `feeds`.

    Raises:
        RefusedError: it does not run.
    """
    try:
        image: NDArray[Any] = session.run(None, dict(feeds))[0]
    except Exception as error:  # onnxruntime's errors have no common base
        what = f"onnxruntime does not run on input {shape_text(feeds)} ({first_sentence(error)})"
        raise not_proved(model, what) from error
    return image


def check_interface(model: ModelUnderTest, session: onnxruntime.InferenceSession) -> None:
    """Compare the inputs and outputs of the loaded model with its interface.

    Raises:
        RefusedError: a name, dtype or shape differs.
    """
    actual = [(arg.name, arg.type, tuple(arg.shape)) for arg in (*session.get_inputs(), *session.get_outputs())]
    specs = (*model.interface.inputs, *model.interface.outputs)
    promised = [(spec.name, _ORT_TYPES[spec.dtype], spec.shape) for spec in specs]
    if actual != promised:
        raise not_proved(model, f"the model's inputs and outputs are {actual} and the contract wants {promised}")


def remaining_shape_arithmetic(folder: Path, fixed_axes: Mapping[str, int]) -> list[str]:
    """Return the nodes that still compute shapes after onnxruntime has folded those of the fixed axes."""
    options = _options(fixed_axes)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    # One file would be above the 2 GB that a model may have.
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS_FILE)
    with tempfile.TemporaryDirectory() as work:
        options.optimized_model_filepath = f"{work}/{MODEL_FILE}"
        onnxruntime.InferenceSession(str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"])
        return graph.shape_arithmetic(onnx.load(f"{work}/{MODEL_FILE}", load_external_data=False))


def _options(fixed_axes: Mapping[str, int]) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    for axis, size in fixed_axes.items():
        options.add_free_dimension_override_by_name(axis, size)
    return options
