"""The stock clients of `tritonclient.grpc` as the checks use them, and inputs for any model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.grpc import (
    InferenceServerClient,
    InferenceServerClientPlugin,
    InferenceServerException,
    InferInput,
    aio,
)
from tritonclient.utils import triton_to_np_dtype

SIDE = 32
"""The height and width of the images that are sent."""
SECONDS = 60
"""How long an answer may take before a check fails."""


class Recording:
    """Keeps the names of the methods that were called."""

    called: set[str]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and name != "called":
            self.called.add(name)
        return super().__getattribute__(name)


class Client(Recording, InferenceServerClient):  # type: ignore[misc]
    """The stock client."""

    def __init__(self, target: str) -> None:
        self.called = set()
        super().__init__(target)


class AsyncClient(Recording, aio.InferenceServerClient):  # type: ignore[misc]
    """The stock asynchronous client."""

    def __init__(self, target: str) -> None:
        self.called = set()
        super().__init__(target)


class AddHeader(InferenceServerClientPlugin):  # type: ignore[misc]
    """A plugin of the client that adds a header."""

    def __call__(self, request: Any) -> None:
        request.headers["x-request-id"] = "plugin"


def refused(code: str, text: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    """Check that `call` fails with this code of gRPC and with `text` in its message."""
    with pytest.raises(InferenceServerException) as caught:
        call(*arguments, **options)
    check_error(caught.value, code, text)


def check_error(error: InferenceServerException, code: str, text: str) -> None:
    """Check the code and the message of an error."""
    assert error.status() == f"StatusCode.{code}", error
    assert text in error.message()


def models(client: Client) -> list[str]:
    """Return the names of the server's models."""
    return [entry.name for entry in client.get_model_repository_index().models]


def arrays(metadata: Any, n: int = 2) -> dict[str, NDArray[Any]]:
    """Return seeded inputs of `n` rows for the model with this metadata."""
    random, made = np.random.default_rng(0), {}
    for tensor in metadata.inputs:
        shape = [n, *(SIDE if axis == -1 else axis for axis in list(tensor.shape)[1:])]
        if tensor.datatype == "FP32":
            made[tensor.name] = random.standard_normal(shape, dtype=np.float32)
        else:
            values = random.integers(0, 2 if tensor.datatype == "INT64" else 256, shape)
            made[tensor.name] = values.astype(triton_to_np_dtype(tensor.datatype))
    return made


def inputs_of(metadata: Any, n: int = 2) -> list[InferInput]:
    """Return `arrays` as the client's inputs."""
    datatypes = {tensor.name: tensor.datatype for tensor in metadata.inputs}
    return [
        InferInput(name, list(array.shape), datatypes[name]).set_data_from_numpy(array)
        for name, array in arrays(metadata, n).items()
    ]


def tensors(client: Client, model: str, n: int = 2) -> list[InferInput]:
    """Return inputs of `n` rows for the model."""
    return inputs_of(client.get_model_metadata(model), n)
