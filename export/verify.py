"""Proves a converted model against torch, in grey levels: nothing is published without it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from export.errors import ProofError
from export.manifest import Proof
from export.wrapper import Wrapped, grey_levels

_SEED = 0
_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
_ORT_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)", "int64": "tensor(int64)"}


def verify(
    name: str, model: bytes, wrapped: Wrapped, edge: int, tolerance: int, images: Sequence[NDArray[np.uint8]] = ()
) -> Proof:
    """Compare onnxruntime on `model` with torch on `wrapped.graph`, over several shapes and the real `images`.

    `edge` is the size of the training images; `tolerance` is in grey levels; `images` are uint8
    [height, width, channels] of legal sizes.

    Raises:
        ProofError: the model does not run or does not declare the contract, a value is not finite, an image
            depends on its neighbours in the batch, or a difference is over the tolerance.
    """
    session = _session(name, model)
    _check_contract(name, session, wrapped)
    largest, squares, count, shapes = 0, 0.0, 0, []
    for given in [*probes(wrapped, edge), *(image[None] for image in images)]:
        expected, actual = _torch_image(name, wrapped, given), _ort_image(name, session, given)
        if actual.shape != expected.shape:
            raise ProofError(
                f"{name}: for input {given.shape} torch makes {expected.shape}, onnxruntime {actual.shape}"
            )
        differences = np.abs(expected.astype(np.int16) - actual)
        if differences.max() > tolerance:
            raise ProofError(
                f"{name}: for input {given.shape} onnxruntime is up to {differences.max()} grey levels from torch "
                f"({np.mean(differences > tolerance):.2%} of values over the tolerance of {tolerance})"
            )
        _check_alone(name, session, given, actual, tolerance)
        largest = max(largest, int(differences.max()))
        squares += float(np.square(differences, dtype=np.float64).sum())
        count += differences.size
        shapes.append(given.shape)
    psnr = round(10 * math.log10(255**2 * count / squares), 2) if squares else None
    # The build's local part ("+cpu") says how torch was installed, not which torch it was.
    torch_version = torch.__version__.split("+")[0]
    return Proof(largest, psnr, tuple(dict.fromkeys(shapes)), len(images), onnxruntime.__version__, torch_version)


def probes(wrapped: Wrapped, edge: int) -> Iterator[NDArray[Any]]:
    """Seeded inputs of several shapes: batches of 1 and more; for translators also the training size, the smallest
    size, a size larger than in training, and sizes that are not square."""
    random = np.random.default_rng(_SEED)
    if wrapped.latent is not None:
        for batch in (1, 3, 8):
            yield random.standard_normal((batch, wrapped.latent.dim), dtype=np.float32)
    if wrapped.size is not None:
        limits, channels = wrapped.size, int(wrapped.given.shape[-1])
        small, trained, smallest = limits.legal(edge // 4), limits.legal(edge), limits.legal(limits.minimum)
        # Twice the training size, save where that would make the proof of a large network slow.
        larger = limits.legal(max(min(2 * edge, 320), edge + limits.multiple))
        wider = limits.legal(small + limits.multiple)
        sizes = ((1, trained, trained), (3, small, wider), (2, wider, smallest), (1, larger, trained))
        for shape in dict.fromkeys(sizes):
            yield random.integers(0, 256, (*shape, channels), dtype=np.uint8)


def _session(name: str, model: bytes) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    except _ORT_ERRORS as error:
        raise ProofError(f"{name}: onnxruntime does not load the model ({_line(error)})") from error


def _check_contract(name: str, session: onnxruntime.InferenceSession, wrapped: Wrapped) -> None:
    ports = [*session.get_inputs(), *session.get_outputs()]
    found = [(port.name, port.type, tuple(port.shape)) for port in ports]
    promised = [(port.name, _ORT_TYPES[port.dtype], port.shape) for port in (wrapped.given, wrapped.made)]
    if found != promised:
        raise ProofError(f"{name}: the model's inputs and outputs are {found} and the contract wants {promised}")


def _torch_image(name: str, wrapped: Wrapped, given: NDArray[Any]) -> NDArray[np.uint8]:
    with torch.inference_mode():
        try:
            values = wrapped.graph.values(torch.from_numpy(given))
        except (RuntimeError, ValueError) as error:
            raise ProofError(f"{name}: torch does not run on input {given.shape} ({_line(error)})") from error
    # Rounding would hide them: a NaN becomes an ordinary grey level.
    wrong = int((~torch.isfinite(values)).sum())
    if wrong:
        raise ProofError(f"{name}: for input {given.shape} {wrong} of {values.numel()} values of torch are not finite")
    image: NDArray[np.uint8] = grey_levels(values).numpy()
    return image


def _ort_image(name: str, session: onnxruntime.InferenceSession, given: NDArray[Any]) -> NDArray[np.uint8]:
    try:
        image: NDArray[np.uint8] = session.run(None, {session.get_inputs()[0].name: given})[0]
    except _ORT_ERRORS as error:
        raise ProofError(f"{name}: onnxruntime does not run on input {given.shape} ({_line(error)})") from error
    return image


def _check_alone(
    name: str,
    session: onnxruntime.InferenceSession,
    given: NDArray[Any],
    together: NDArray[np.uint8],
    tolerance: int,
) -> None:
    """A server puts the images of different people in one batch: none may change another."""
    if len(given) == 1:
        return
    apart = int(np.abs(_ort_image(name, session, given[:1]).astype(np.int16) - together[:1]).max())
    if apart > tolerance:
        raise ProofError(
            f"{name}: in a batch of {len(given)} an image is {apart} grey levels from what it is alone: "
            "is a normalisation using the batch's own statistics?"
        )


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
