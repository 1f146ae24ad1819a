"""What clients send for each call, and how they read the answer: functions without any network."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from serving.codec import MEDIA_TYPES, File
from serving.errors import BadRequestError, ServerError, ServingError, answered_error
from serving.open_inference import HEADER_LENGTH, pack, unpack_outputs
from zorse_common.image_writer import encode

T = TypeVar("T")
Image = NDArray[np.uint8] | bytes | str | os.PathLike[str]
"""An image: uint8 [h, w, 1, 3 or 4], the bytes of an image file, or its path."""
Images = Image | list[Image] | tuple[Image, ...]


@dataclass(frozen=True)
class CycleAnswer:
    """An image translated there and back, uint8 [h, w, c] each, and how far it is from the source then.

    `l1` is the mean absolute difference in grey levels, and `psnr` is in dB, infinite if there is no difference.
    """

    there: NDArray[np.uint8]
    back: NDArray[np.uint8]
    l1: float
    psnr: float


@dataclass(frozen=True)
class Answer:
    """A whole HTTP answer. The names of `headers` are lower-case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is one of success."""
        return 200 <= self.status < 300


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and the reader of its answer. `options` are the body and query as httpx takes them."""

    read: Callable[[Answer], T]
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def value(self, answer: Answer, url: str) -> T:
        """Return what the server at `url` has answered.

        Raises:
            ServingError: the answer is an error, or not one of a zorse server.
        """
        if not answer.is_success:
            raise _error_of(answer, self.path)
        try:
            return self.read(answer)
        except Exception as error:  # what bad bytes make the readers of JSON, ZIP and images raise has no common base
            text = f"{url} answers {self.path} as no zorse server does ({type(error).__name__}: {error})"
            raise ServerError(text, answer.status, "protocol") from error


def ready() -> Call[bool]:
    """Return the question whether every model can answer."""
    return Call(lambda answer: True, "GET", "/v2/health/ready")


def models() -> Call[list[dict[str, Any]]]:
    """Return the question for the models."""
    return Call(_read_models, "GET", "/v2/models")


def index() -> Call[list[dict[str, str]]]:
    """Return the question for the versions of the repository and their states."""
    return Call(_read_index, "POST", "/v2/repository/index")


def metadata(model: str) -> Call[dict[str, Any]]:
    """Return the question for a model's metadata."""
    return Call(_read_metadata, "GET", f"/v2/models/{quote(model, safe='')}")


def metrics() -> Call[str]:
    """Return the question for the metrics."""
    return Call(lambda answer: answer.content.decode(), "GET", "/metrics")


def fetch(verb: str, model: str, image: Images | None, keys: Mapping[str, Any]) -> Call[File]:
    """Return the request to a verb whose answer is a file. Raises BadRequestError if it cannot be sent."""
    return _verb(lambda answer: _read_file(answer, verb), verb, model, image, keys)


def value(verb: str, model: str, image: Images | None, keys: Mapping[str, Any]) -> Call[Any]:
    """Return the request to a verb whose answer is arrays or JSON. Raises BadRequestError if it cannot be sent."""
    return _verb(lambda answer: _read_file(answer, verb).value(), verb, model, image, keys)


def images(verb: str, model: str, keys: Mapping[str, Any]) -> Call[NDArray[Any]]:
    """Return the request to a verb for its images as one array. Raises BadRequestError if it cannot be sent."""
    for key in ("format", "layout"):
        if key in keys:
            raise BadRequestError(f"{verb} returns an array and has no {key}: use call or fetch for others")
    return value(verb, model, None, {**keys, "format": "npy"})


def translate(
    model: str, image: Image, value_range: tuple[float, float] | None, tile: bool, overlap: int | None
) -> Call[NDArray[np.uint8]]:
    """Return the request for one translated image. Raises BadRequestError if it cannot be sent."""
    black, white = value_range or (None, None)
    return value("translate", model, image, {"black": black, "white": white, "tile": tile or None, "overlap": overlap})


def cycle(model: str, image: Image, partner: str | None) -> Call[CycleAnswer]:
    """Return the request for an image there and back. Raises BadRequestError if it cannot be sent."""
    return _verb(_read_cycle, "cycle", model, image, {"partner": partner, "layout": "zip"})


def infer(model: str, inputs: Mapping[str, NDArray[Any]]) -> Call[dict[str, NDArray[Any]]]:
    """Return the request for a model's outputs with binary tensors. Raises BadRequestError if it cannot be sent."""
    extra = {"parameters": {"binary_data_output": True}}
    content, headers = pack("inputs", inputs, dict.fromkeys(inputs, True), extra)
    return Call(_read_tensors, "POST", _path(model, "infer"), headers, {"content": content})


def _verb(read: Callable[[Answer], T], verb: str, model: str, image: Images | None, keys: Mapping[str, Any]) -> Call[T]:
    path = _path(model, verb)
    present = {key: _plain(entry, key) for key, entry in keys.items() if entry is not None}
    if image is None:
        try:
            content = json.dumps(present, allow_nan=False).encode()
        except ValueError as error:
            raise BadRequestError("a key has NaN or infinity, which JSON has not") from error
        return Call(read, "POST", path, {"Content-Type": "application/json"}, {"content": content})
    if isinstance(image, list | tuple):
        files = [("image", ("image", _image_bytes(entry))) for entry in image]
        return Call(read, "POST", path, options={"files": files, "params": present})
    headers = {"Content-Type": "application/octet-stream"}
    return Call(read, "POST", path, headers, {"content": _image_bytes(image), "params": present})


def _plain(value: Any, key: str) -> Any:
    """Return the value of `key` with lists and numbers of Python in place of those of numpy.

    Raises:
        BadRequestError: there is something else in it than numbers, texts, booleans and lists.
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(entry, key) for entry in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise BadRequestError(f"{key} has a {type(value).__name__}: give numbers, texts, or lists or arrays of them")


def _path(model: str, verb: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/{verb}"


def _error_of(answer: Answer, path: str) -> ServingError:
    try:
        body = json.loads(answer.content)
        error = answered_error(body["error"], answer.status, body["code"])
    except (ValueError, KeyError, TypeError):
        error = ServerError(f"{path} answered {answer.status} {answer.reason}", answer.status, "http")
    if "retry-after" in answer.headers:
        error.headers = {"Retry-After": answer.headers["retry-after"]}
    return error


def _read_models(answer: Answer) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = json.loads(answer.content)
    if not isinstance(models, list) or not all(_is_object(model, "name", "version", "kind") for model in models):
        raise ValueError("the answer is not a list of models")
    return models


def _read_index(answer: Answer) -> list[dict[str, str]]:
    index: list[dict[str, str]] = json.loads(answer.content)
    if not isinstance(index, list) or not all(_is_object(entry, "name", "version", "state") for entry in index):
        raise ValueError("the answer is not the index of a repository")
    return index


def _read_metadata(answer: Answer) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads(answer.content)
    inputs = metadata.get("inputs") if _is_object(metadata, "name", "inputs") else None
    if not isinstance(inputs, list) or not all(_is_tensor(entry) for entry in inputs):
        raise ValueError("the answer is not the metadata of a model")
    return metadata


def _is_tensor(entry: object) -> bool:
    """Return whether `entry` is the description of a tensor: its name, data type and list of sizes."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "datatype")):
        return False
    shape = entry.get("shape")
    return isinstance(shape, list) and all(type(size) is int for size in shape)


def _is_object(value: object, *keys: str) -> bool:
    return isinstance(value, dict) and value.keys() >= set(keys)


def _read_cycle(answer: Answer) -> CycleAnswer:
    file = _read_file(answer, "cycle")
    _, there, back = file.value()
    return CycleAnswer(there, back, float(file.headers["zorse-l1"]), float(file.headers["zorse-psnr"]))


def _read_file(answer: Answer, verb: str) -> File:
    """Return the file of an answer. Raises ValueError if its media type is not one that `verb` answers with."""
    # Imported here: the other calls need no verbs, and start faster without.
    from serving.verb import VERBS

    # The server may have verbs that this process does not know.
    known = VERBS.find(verb).answer_types if verb in VERBS.names() else MEDIA_TYPES
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if media_type not in known:
        raise ValueError(f"the answer is of the type {media_type!r}")
    headers = {name: value for name, value in answer.headers.items() if name.startswith("zorse-")}
    return File(answer.content, media_type, headers=headers)


def _read_tensors(answer: Answer) -> dict[str, NDArray[Any]]:
    return unpack_outputs(answer.content, answer.headers.get(HEADER_LENGTH))


def _image_bytes(image: Image) -> bytes:
    """Return the bytes of an image file.

    Raises:
        BadRequestError: an array is not an image.
    """
    if isinstance(image, bytes):
        return image
    if not isinstance(image, np.ndarray):
        return Path(image).read_bytes()
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3, 4) or not image.size:
        raise BadRequestError(f"an image is uint8 [h, w, 1, 3 or 4] and this is {image.dtype} {list(image.shape)}")
    return encode(image)
