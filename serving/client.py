"""The HTTP client for programs. It needs neither torch nor Ray nor onnxruntime."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import numpy as np
from numpy.typing import NDArray

from serving.codec import MEDIA_TYPES, File
from serving.errors import BadRequestError, ServerError
from serving.loopback import is_loopback
from serving.open_inference import HEADER_LENGTH, pack, unpack_outputs
from zorse_common.errors import one_line
from zorse_common.image_writer import encode

T = TypeVar("T")
Image = NDArray[np.uint8] | bytes | str | os.PathLike[str]
"""An image: uint8 [h, w, 1, 3 or 4], the bytes of an image file, or its path."""
Images = Image | list[Image] | tuple[Image, ...]
_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})
_CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})


@dataclass(frozen=True)
class CycleAnswer:
    """An image translated there and back, uint8 [h, w, c] each, and how far it is from the source then.

    `l1` is the mean absolute difference in grey levels, and `psnr` is in dB, infinite if there is no difference.
    """

    there: NDArray[np.uint8]
    back: NDArray[np.uint8]
    l1: float
    psnr: float


class Client:
    """Calls a zorse server.

    Every call raises `ServerError` with the server's message, status and code. The status is 0 and the code
    "unreachable" if no server answers; the code is "protocol" if the answer is not that of a zorse server. A request
    that cannot be sent, such as an image that is not uint8, raises `BadRequestError`.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        if not url.lower().startswith(("http://", "https://")):
            raise BadRequestError(f"{url} is not a server's URL: write http://{url.rpartition('://')[2]}")
        headers = {b"X-API-Key": api_key.encode()} if api_key else {}
        try:
            # A loopback address needs neither a proxy nor certificates: the environment is ignored.
            trusted = not is_loopback(urlsplit(url).hostname or "")
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=timeout, transport=transport, trust_env=trusted
            )
        except httpx.InvalidURL as error:
            raise BadRequestError(f"{url} is not a URL: {error}{_settings_hint(_PROXIES)}") from error
        except (OSError, ValueError, ImportError) as error:  # of settings in the environment
            raise BadRequestError(
                f"no connection to {url} can be made ({one_line(error)}){_settings_hint(_PROXIES | _CERTIFICATES)}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Return whether every model of the server can answer; False if there is no server."""
        try:
            return self._http.get("/v2/health/ready").is_success
        except httpx.RequestError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """Return the name, version and kind of each model."""
        return self._request(_read_models, "GET", "/v2/models")

    def unavailable(self) -> dict[str, str]:
        """Return the reason for each `<model>/<version>` of the server's repository that is not served."""
        return self._request(_read_unavailable, "POST", "/v2/repository/index")

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the kind, versions, inputs and outputs of a model (KServe v2 model metadata)."""
        return self._request(_read_metadata, "GET", f"/v2/models/{quote(model, safe='')}")

    def metrics(self) -> str:
        """Return the numbers of all models since the server's start, in Prometheus's text format."""
        return self._request(lambda response: response.text, "GET", "/metrics")

    def call(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> Any:
        """Call a verb and return its answer as arrays: `call("interpolate", "digits", first=3, last=8, steps=10)`.

        `keys` are those of the verb's request, listed in the documentation that the server has of each model; a key
        that is None is left out. `image` is for verbs that take images: uint8 [h, w, c], the bytes of an image file,
        its path, or a list of these. The answer is as `File.value` says: one image is uint8 [h, w, c], several are
        [n, h, w, c], and an answer in JSON is its value.
        """
        return self._call(lambda response: _read_file(response, verb).value(), _path(model, verb), image, keys)

    def fetch(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> File:
        """Call a verb and return its answer as a file. Arguments are those of `call`."""
        return self._call(lambda response: _read_file(response, verb), _path(model, verb), image, keys)

    def generate(
        self, model: str, n: int | None = None, seed: int | None = None, first: int | None = None, **keys: Any
    ) -> NDArray[Any]:
        """Return the images `first` … `first + n - 1` of `seed`: [n, h, w, c] in the model's dtype.

        `keys` are `labels`, the class of all images, by name or index, or one for each; `truncation` in (0, 1]; or
        `latents` [n, dim] in place of n, seed and first.
        """
        return self._images("generate", model, {"n": n, "seed": seed, "first": first} | keys)

    def translate(
        self,
        model: str,
        image: Image,
        value_range: tuple[float, float] | None = None,
        *,
        tile: bool = False,
        overlap: int | None = None,
    ) -> NDArray[np.uint8]:
        """Translate an image (uint8 [h, w, c], the bytes of an image file, or its path): uint8 [h, w, c].

        `value_range` are the values of black and white in a file of more than 8 bits. With `tile` an image that is
        larger than the model takes is translated in tiles, which overlap by `overlap` pixels.
        """
        black, white = value_range or (None, None)
        keys = {"black": black, "white": white, "tile": tile or None, "overlap": overlap}
        translated: NDArray[np.uint8] = self.call("translate", model, image, **keys)
        return translated

    def interpolate(self, model: str, **keys: Any) -> NDArray[Any]:
        """Return the images on the way between latents: [n, h, w, c]. `keys` are those of the verb `interpolate`."""
        return self._images("interpolate", model, keys)

    def arithmetic(self, model: str, **keys: Any) -> NDArray[Any]:
        """Return the images of the terms and of the sum of latents: [n, h, w, c]. `keys` are those of `arithmetic`."""
        return self._images("arithmetic", model, keys)

    def cycle(self, model: str, image: Image, partner: str | None = None) -> CycleAnswer:
        """Translate an image there and back. Without `partner` the server takes the model that translates back."""
        return self._call(_read_cycle, _path(model, "cycle"), image, {"partner": partner, "layout": "zip"})

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs of a model by name for explicit inputs by name (KServe v2, binary tensors)."""
        extra = {"parameters": {"binary_data_output": True}}
        content, headers = pack("inputs", inputs, dict.fromkeys(inputs, True), extra)
        return self._request(_read_tensors, "POST", _path(model, "infer"), content=content, headers=headers)

    def _images(self, verb: str, model: str, keys: dict[str, Any]) -> NDArray[Any]:
        """Return the images of a verb as one array."""
        for key in ("format", "layout"):
            if key in keys:
                raise BadRequestError(f"{verb} returns an array and has no {key}: use call or fetch for others")
        images: NDArray[Any] = self.call(verb, model, format="npy", **keys)
        return images

    def _call(self, read: Callable[[httpx.Response], T], path: str, image: Images | None, keys: dict[str, Any]) -> T:
        present = {key: _plain(value, key) for key, value in keys.items() if value is not None}
        if image is None:
            try:
                content = json.dumps(present, allow_nan=False).encode()
            except ValueError as error:
                raise BadRequestError("a key has NaN or infinity, which JSON has not") from error
            headers = {"Content-Type": "application/json"}
            return self._request(read, "POST", path, content=content, headers=headers)
        if isinstance(image, list | tuple):
            files = [("image", ("image", _image_bytes(entry))) for entry in image]
            return self._request(read, "POST", path, files=files, params=present)
        headers = {"Content-Type": "application/octet-stream"}
        return self._request(read, "POST", path, content=_image_bytes(image), headers=headers, params=present)

    def _request(self, read: Callable[[httpx.Response], T], method: str, path: str, **options: Any) -> T:
        try:
            response = self._http.request(method, path, **options)
        except httpx.RequestError as error:
            settings = _PROXIES | _CERTIFICATES if _is_of_certificates(error) else _PROXIES
            hint = _settings_hint(settings) if self._http.trust_env else ""
            raise ServerError(f"{self._http.base_url} does not answer: {error}{hint}", 0, "unreachable") from error
        if not response.is_success:
            raise _server_error(response, path)
        try:
            return read(response)
        except Exception as error:  # what bad bytes make the readers of JSON, ZIP and images raise has no common base
            text = f"{self._http.base_url} answers {path} as no zorse server does ({type(error).__name__}: {error})"
            raise ServerError(text, response.status_code, "protocol") from error


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


def _is_of_certificates(error: BaseException | None) -> bool:
    """Return whether an error of TLS is `error` or one of its causes."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _settings_hint(settings: frozenset[str]) -> str:
    """Return a hint with those of the environment variables `settings` that are set, or "" if none is."""
    names = [name for name in os.environ if name.upper() in settings]
    return f"; check {', '.join(sorted(names))} of the environment" if names else ""


def _path(model: str, verb: str) -> str:
    return f"/v2/models/{quote(model, safe='')}/{verb}"


def _server_error(response: httpx.Response, path: str) -> ServerError:
    try:
        body = response.json()
        return ServerError(body["error"], response.status_code, body["code"])
    except (ValueError, KeyError, TypeError):
        text = f"{path} answered {response.status_code} {response.reason_phrase}"
        return ServerError(text, response.status_code, "http")


def _read_models(response: httpx.Response) -> list[dict[str, Any]]:
    models: list[dict[str, Any]] = response.json()
    if not isinstance(models, list) or not all(_is_object(model, "name", "version", "kind") for model in models):
        raise ValueError("the answer is not a list of models")
    return models


def _read_unavailable(response: httpx.Response) -> dict[str, str]:
    index = response.json()
    if not isinstance(index, list) or not all(_is_object(entry, "name", "version", "state") for entry in index):
        raise ValueError("the answer is not the index of a repository")
    return {
        f"{entry['name']}/{entry['version']}".rstrip("/"): str(entry.get("reason", ""))
        for entry in index
        if entry["state"] == "UNAVAILABLE"
    }


def _read_metadata(response: httpx.Response) -> dict[str, Any]:
    metadata: dict[str, Any] = response.json()
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


def _read_cycle(response: httpx.Response) -> CycleAnswer:
    file = _read_file(response, "cycle")
    _, there, back = file.value()
    return CycleAnswer(there, back, float(file.headers["zorse-l1"]), float(file.headers["zorse-psnr"]))


def _read_file(response: httpx.Response, verb: str) -> File:
    """Return the file of an answer. Raises ValueError if its media type is not one that `verb` answers with."""
    # Imported here: the other calls need no verbs, and start faster without.
    from serving.verb import VERBS

    # The server may have verbs that this process does not know.
    known = VERBS.find(verb).answer_types if verb in VERBS.names() else MEDIA_TYPES
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type not in known:
        raise ValueError(f"the answer is of the type {media_type!r}")
    headers = {name: value for name, value in response.headers.items() if name.startswith("zorse-")}
    return File(response.content, media_type, headers=headers)


def _read_tensors(response: httpx.Response) -> dict[str, NDArray[Any]]:
    return unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))


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
