"""The HTTP client for programs. It needs neither torch nor Ray nor onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx
import numpy as np
from numpy.typing import NDArray

from serving import client_calls as calls
from serving.client_calls import Answer, Call, CycleAnswer, Image, Images
from serving.client_transport import TIMER, Attempts, Connections, Outcome, Timer
from serving.codec import File
from serving.errors import ServingError
from serving.retrying import DEFAULT_RETRY, RetryPolicy

T = TypeVar("T")


class Client:
    """Calls a zorse server, or several that serve the same models.

    Requests go to the endpoints in turn, over connections that stay open, and are repeated as `retry` says: after a
    connection that failed or was cut, and after 429, 502, 503 and 504 with a time to try again. Each call ends within
    `timeout` seconds with everything that is repeated; the server is told what is left of them. Threads may share a
    client.

    Every call raises the `ServingError` that the server answered, of the same class as in the server: `NotFoundError`,
    `OverloadedError` and so on. It is `DeadlineError` if there was no answer in time, `UnreachableError` if no server
    answers, and `ServerError` with the code "protocol" if the answer is not that of a zorse server. A request that
    cannot be sent, such as an image that is not uint8, raises `BadRequestError`.
    """

    def __init__(
        self,
        url: str | Sequence[str] = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout: float = 120.0,
        retry: RetryPolicy = DEFAULT_RETRY,
        transport: httpx.BaseTransport | None = None,
        timer: Timer = TIMER,
    ) -> None:
        self._timer = timer
        self._connections = Connections(httpx.Client, url, api_key, timeout, retry, transport, timer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for http in self._connections.http:
            http.close()

    def ready(self) -> bool:
        """Return whether every model of a server can answer; False if there is no server."""
        try:
            return self._send(calls.ready(), self._connections.each_once())
        except ServingError:
            return False

    def models(self) -> list[dict[str, Any]]:
        """Return the name, version and kind of each model."""
        return self._send(calls.models())

    def index(self) -> list[dict[str, str]]:
        """Return the name, version, state and reason of each version that the server serves, starts or has refused.

        The state is READY, LOADING or UNAVAILABLE; the last one has a reason. The version may be empty.
        """
        return self._send(calls.index())

    def metadata(self, model: str) -> dict[str, Any]:
        """Return the kind, versions, inputs and outputs of a model (KServe v2 model metadata)."""
        return self._send(calls.metadata(model))

    def metrics(self) -> str:
        """Return the numbers of all models since the server's start, in Prometheus's text format."""
        return self._send(calls.metrics())

    def call(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> Any:
        """Call a verb and return its answer as arrays: `call("interpolate", "digits", first=3, last=8, steps=10)`.

        `keys` are those of the verb's request, listed in the documentation that the server has of each model; a key
        that is None is left out. `image` is for verbs that take images: uint8 [h, w, c], the bytes of an image file,
        its path, or a list of these. The answer is as `File.value` says: one image is uint8 [h, w, c], several are
        [n, h, w, c], and an answer in JSON is its value.
        """
        return self._send(calls.value(verb, model, image, keys))

    def fetch(self, verb: str, model: str, image: Images | None = None, **keys: Any) -> File:
        """Call a verb and return its answer as a file. Arguments are those of `call`."""
        return self._send(calls.fetch(verb, model, image, keys))

    def generate(
        self, model: str, n: int | None = None, seed: int | None = None, first: int | None = None, **keys: Any
    ) -> NDArray[Any]:
        """Return the images `first` … `first + n - 1` of `seed`: [n, h, w, c] in the model's dtype.

        `keys` are `labels`, the class of all images, by name or index, or one for each; `truncation` in (0, 1]; or
        `latents` [n, dim] in place of n, seed and first.
        """
        return self._send(calls.images("generate", model, {"n": n, "seed": seed, "first": first} | keys))

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
        return self._send(calls.translate(model, image, value_range, tile, overlap))

    def interpolate(self, model: str, **keys: Any) -> NDArray[Any]:
        """Return the images on the way between latents: [n, h, w, c]. `keys` are those of the verb `interpolate`."""
        return self._send(calls.images("interpolate", model, keys))

    def arithmetic(self, model: str, **keys: Any) -> NDArray[Any]:
        """Return the images of the terms and of the sum of latents: [n, h, w, c]. `keys` are those of `arithmetic`."""
        return self._send(calls.images("arithmetic", model, keys))

    def cycle(self, model: str, image: Image, partner: str | None = None) -> CycleAnswer:
        """Translate an image there and back. Without `partner` the server takes the model that translates back."""
        return self._send(calls.cycle(model, image, partner))

    def infer(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the outputs of a model by name for explicit inputs by name (KServe v2, binary tensors)."""
        return self._send(calls.infer(model, inputs))

    def _send(self, call: Call[T], retry: RetryPolicy | None = None) -> T:
        attempts = self._connections.begin(call, retry)
        while (wait := attempts.wait_after(self._attempt(attempts))) is not None:
            self._timer.sleep(wait)
        return attempts.value()

    def _attempt(self, attempts: Attempts[Any, httpx.Client]) -> Outcome:
        http, request = attempts.build()
        parts = []
        try:
            response = http.send(request, stream=True)
            try:
                # httpx has no limit for a whole answer, which may arrive a few bytes at a time.
                for part in response.iter_bytes():
                    parts.append(part)
                    if self._timer.clock() > attempts.deadline:
                        return TimeoutError("the answer is not complete")
            finally:
                response.close()
        except httpx.RequestError as error:
            return error
        return Answer(response.status_code, response.reason_phrase, response.headers, b"".join(parts))
