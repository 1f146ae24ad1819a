"""The HTTP client for other people's programs: no torch, no Ray, no onnxruntime."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from serving.errors import ServerError
from serving.schemas import HEADER_LENGTH, pack, unpack_outputs


class Client:
    """Calls a zorse server.

    Every call raises `ServerError` with the server's own message, status and code, or with status 0 and code
    "unreachable" where no server answers.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {"X-API-Key": api_key} if api_key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ready(self) -> bool:
        """Whether every model of the server can answer; False where there is no server."""
        try:
            return self._http.get("/v2/health/ready").is_success
        except httpx.TransportError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """The models: name, version and kind of each."""
        found: list[dict[str, Any]] = self._call("GET", "/v2/models").json()
        return found

    def generate(self, model: str, n: int = 1, seed: int = 0, first: int = 0) -> NDArray[np.uint8]:
        """Images `first` … `first + n - 1` of `seed`: uint8 [n, h, w, c]."""
        wanted = {"n": n, "seed": seed, "first": first, "layout": "zip"}
        content = self._call("POST", f"/v2/models/{model}/generate", json=wanted).content
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            return np.stack([_to_array(bundle.read(name)) for name in bundle.namelist()])

    def translate(self, model: str, image: NDArray[np.uint8] | bytes | str | os.PathLike[str]) -> NDArray[np.uint8]:
        """An image (uint8 [h, w, c], the bytes of an image file, or its path) → uint8 [h, w, c] of the same size."""
        if isinstance(image, np.ndarray):
            data = _to_png(image)
        else:
            data = image if isinstance(image, bytes) else Path(image).read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        return _to_array(self._call("POST", f"/v2/models/{model}/translate", content=data, headers=headers).content)

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The model's outputs by name for explicit inputs by name (KServe v2, binary tensors)."""
        extra = {"parameters": {"binary_data_output": True}}
        content, headers = pack("inputs", inputs, dict.fromkeys(inputs, True), extra)
        response = self._call("POST", f"/v2/models/{model}/infer", content=content, headers=headers)
        return unpack_outputs(response.content, response.headers.get(HEADER_LENGTH))

    def _call(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise ServerError(f"{self._http.base_url} does not answer: {error}", 0, "unreachable") from error
        if response.is_success:
            return response
        try:
            body = response.json()
            raise ServerError(body["error"], response.status_code, body["code"])
        except (json.JSONDecodeError, KeyError, TypeError):
            text = f"{path} answered {response.status_code} {response.reason_phrase}"
            raise ServerError(text, response.status_code, "http") from None


def _to_array(data: bytes) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(data)), dtype=np.uint8)
    return pixels[:, :, None] if pixels.ndim == 2 else pixels


def _to_png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()
