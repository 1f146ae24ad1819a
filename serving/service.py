"""One model as the server and programs use it: it answers verbs and runs arrays.

A verb plans feeds, the named inputs of the model, and renders its outputs; both are pure. The online `ModelService` and
the in-process `LocalModel` differ only in how they run the feeds.
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Self, TypeVar

from numpy.typing import NDArray

from export.interface import IMAGE, SOURCE, Interface
from export.manifest import Manifest
from serving import artifacts, feeds
from serving.admission import Admission
from serving.batching import Submit, Tensors, capacity, chunks, group_key, merge, rows
from serving.codec import File
from serving.config import Batching, Capacity, DeviceChoice, Limits
from serving.engine import Engine, cpu_cores, resolve_device
from serving.errors import BadRequestError, TooLargeError
from serving.feeds import Feeds
from serving.selftest import load_checked_engine
from serving.verb import VERBS, ImageRequest, R, Verb, VerbRequest

P = ParamSpec("P")
T = TypeVar("T")
_LOCAL_BATCHING = Batching()
_INLINE_PIXELS = 128 * 128
"""Decoding or encoding so many pixels takes about as long as a change of threads: it is done on the event loop."""


def batching_of(interface: Interface, batching: Batching) -> Batching:
    """Return `batching` with the batch size of the graph as `max_size` where the graph has a fixed one."""
    batch = interface.inputs[0].shape[0]
    return batching.model_copy(update={"max_size": batch}) if isinstance(batch, int) else batching


class ModelService:
    """One model online. `submit` runs feeds in batches with those of other requests.

    Work on few pixels is done on the event loop, other work in a few long-lived threads.
    """

    is_slow = True

    def __init__(self, manifest: Manifest, submit: Submit, limits: Limits, capacity: Capacity | None = None) -> None:
        self.manifest = manifest
        self.interface = manifest.interface
        self.limits = limits
        self.admission = Admission(capacity)
        self._submit = submit
        self._threads = ThreadPoolExecutor(cpu_cores(), thread_name_prefix="images")

    async def call(self, verb: Verb[R], request: R, deadline: float | None = None) -> File:
        """Return the answer of `verb` to `request`. `deadline` is in the event loop's time.

        Raises:
            TooLargeError: the request is for more images than the limit.
            ServingError: as `verb.plan`, `run` and `verb.render`.
        """
        self._check_count(request.count)
        planned = await self._work(request.count, verb.plan, self.interface, request)
        outputs = await self.run(planned, deadline)
        return await self._work(_pixels(outputs[IMAGE]), verb.render, outputs, request)

    async def call_with_image(
        self, verb: Verb[Any], keys: ImageRequest, content: bytes, deadline: float | None
    ) -> File:
        """Return the answer of `verb` to the request `keys` with the image of the file `content`.

        Raises:
            ServingError: as `ImageRequest.with_image` and `call`.
        """
        request = await self._work(len(content) * 8, keys.with_image, content, self.interface, self.limits)
        return await self.call(verb, request, deadline)

    async def run(self, inputs: Feeds, deadline: float | None = None) -> Tensors:
        """Return the outputs by name. Source images of any legal size are padded, and the output images cropped.

        Raises:
            BadRequestError, ImageSizeError: as `feeds.check`.
            TooLargeError: there are more rows than the limit.
            OverloadedError, DeadlineError, ServingError: as `Batcher.submit`.
        """
        padded = await self._work(
            0 if self.interface.size is None else _pixels(inputs.get(SOURCE)), self._prepare, inputs
        )
        return feeds.crop(self.interface, inputs, await self._submit(padded))

    def _prepare(self, inputs: Feeds) -> Feeds:
        feeds.check(self.interface, inputs)
        self._check_count(rows(inputs))
        return feeds.pad(self.interface, self.manifest.buckets, inputs)

    def _check_count(self, n: int) -> None:
        if n > self.limits.images:
            raise TooLargeError(f"the request is for {n} images and the limit is {self.limits.images}")

    async def _work(self, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which works on about `pixels` pixels, here or in a thread."""
        if pixels <= _INLINE_PIXELS:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *args, **kwargs))


def _pixels(images: NDArray[Any] | None) -> int:
    """Return the number of pixels of images [n, h, w, c]."""
    return 0 if images is None else math.prod(images.shape[:3])


MAX_LOCAL_IMAGES = 10_000
"""The most images of one call of a verb in this process, which holds them all."""


class LocalModel:
    """One model in this process, synchronous and without a server.

    Image files have limits, and a verb makes at most `MAX_LOCAL_IMAGES` images; `generate` and `translate` have none.
    """

    def __init__(self, manifest: Manifest, engine: Engine) -> None:
        self.manifest = manifest
        self.interface = manifest.interface
        self._engine = engine

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: DeviceChoice = "auto", threads: int | None = None) -> Self:
        """Open the model at `path`, a path or URI: an artifact folder, a model folder (newest version) or MODEL@ALIAS.

        Raises:
            ArtifactError: there is no sound artifact.
            EngineError: the graph does not run on `device`.
        """
        artifact = artifacts.load(path)
        return cls(artifact.manifest, load_checked_engine(artifact, resolve_device(device), threads or cpu_cores()))

    def generate(
        self, n: int, seed: int = 0, first: int = 0, labels: str | int | Sequence[str | int] | None = None
    ) -> NDArray[Any]:
        """Return the images `first` … `first + n - 1` of `seed`: [n, h, w, c] in the model's dtype.

        `labels` is as in the verb `generate`.

        Raises:
            UnsupportedError: the model is not a generator, or has no classes and `labels` is given.
            BadRequestError: a number is out of range, or a label is not a class of the model.
        """
        verb = VERBS.find("generate")
        request = verb.request.parse({"n": n, "seed": seed, "first": first, "labels": labels})
        return self.run(verb.plan(self.interface, request))[IMAGE]

    def translate(self, images: NDArray[Any]) -> NDArray[Any]:
        """Translate `images` [h, w, c] or [n, h, w, c]: the same with `scale` times the height and width.

        Raises:
            UnsupportedError: the model is not a translator.
            BadRequestError, ImageSizeError: as `feeds.check`.
        """
        batch = images[None] if images.ndim == 3 else images
        translated = self.run(feeds.source_feeds(self.interface, batch))[IMAGE]
        return translated[0] if images.ndim == 3 else translated

    def call(self, verb: str, image: bytes | None = None, **keys: Any) -> Any:
        """Call a verb and return its answer as arrays (see `File.value`). Arguments and errors are those of `fetch`."""
        return self.fetch(verb, image, **keys).value()

    def fetch(self, verb: str, image: bytes | None = None, **keys: Any) -> File:
        """Call a verb with the `keys` of its request and return its answer as a file.

        `image` is the bytes of an image file, for verbs that take one.

        Raises:
            NotFoundError: there is no such verb.
            BadRequestError: a key is unknown or missing, or a value is not legal.
            TooLargeError: the request is for more than `MAX_LOCAL_IMAGES` images.
            ServingError: as the verb's `plan` and `render`, and `run`.
        """
        entry = VERBS.find(verb)
        request = self._with_image(entry.request.parse(keys), image)
        if request.count > MAX_LOCAL_IMAGES:
            raise TooLargeError(f"the request is for {request.count} images and the limit is {MAX_LOCAL_IMAGES} a call")
        return entry.render(self.run(entry.plan(self.interface, request)), request)

    def run(self, inputs: Feeds) -> Tensors:
        """Return the outputs by name, as `ModelService.run` does.

        Raises:
            BadRequestError, ImageSizeError: as `feeds.check`.
            EngineError: the graph fails.
        """
        feeds.check(self.interface, inputs)
        padded = feeds.pad(self.interface, self.manifest.buckets, inputs)
        size = capacity(group_key(padded), batching_of(self.interface, _LOCAL_BATCHING))
        outputs = merge([self._engine.run(part) for part in chunks(padded, size)])
        return feeds.crop(self.interface, inputs, outputs)

    def _with_image(self, request: VerbRequest, image: bytes | None) -> VerbRequest:
        if isinstance(request, ImageRequest) != (image is not None):
            raise BadRequestError("the verb takes no image" if image is not None else "the verb takes an image file")
        if image is None or not isinstance(request, ImageRequest):
            return request
        return request.with_image(image, self.interface, Limits())
