"""One model as the server uses it: it answers verbs and runs arrays.

A verb plans feeds, the named inputs of the model, and renders its outputs; both are pure. The in-process `LocalModel`
differs only in how it runs the feeds.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import lru_cache, partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE, SOURCE, Interface
from export.manifest import Manifest
from serving import feeds
from serving.admission import Admission
from serving.answers import Origin
from serving.batcher import Submit
from serving.batching import Tensors, rows
from serving.codec import File
from serving.config import Batching, Limits
from serving.engine import cpu_cores
from serving.errors import NotFoundError, TooLargeError
from serving.metrics import ModelMetrics
from serving.partners import Partners, no_partner
from serving.profile import Profile
from serving.verb import ImagesRequest, PartnerRequest, R, Verb
from zorse_common.errors import printable

RunAll = Callable[[Sequence[Feeds], float | None], Coroutine[Any, Any, list[Tensors]]]
"""Runs several feeds until a deadline."""
P = ParamSpec("P")
T = TypeVar("T")
_INLINE_PIXELS = 128 * 128
"""Decoding or encoding so many pixels takes about as long as a change of threads: it is done on the event loop."""


class _Prepared(NamedTuple):
    """The inputs of one run as requested, and padded for the model."""

    inputs: Feeds
    padded: Feeds


def batching_of(interface: Interface, batching: Batching) -> Batching:
    """Return `batching` with the batch size of the graph as `max_size` where the graph has a fixed one."""
    batch = interface.inputs[0].shape[0]
    return batching.model_copy(update={"max_size": batch}) if isinstance(batch, int) else batching


class ModelService:
    """One model online. `submit` runs feeds in batches with those of other requests, and `partners` other models.

    `profile` has the measured times of the model's runs, and `metrics` counts and times what is done. Work on few
    pixels is done on the event loop, other work in a few long-lived threads.
    """

    def __init__(
        self,
        manifest: Manifest,
        submit: Submit,
        limits: Limits,
        admission: Admission | None = None,
        profile: Profile | None = None,
        metrics: ModelMetrics | None = None,
        partners: Partners | None = None,
    ) -> None:
        self.manifest = manifest
        self.origin = Origin.of(manifest)
        self.interface = manifest.interface
        self.limits = limits
        self.admission = admission or Admission()
        self._submit = submit
        self._profile = profile
        # The requests of a client are alike, and the estimate takes longer than to look it up.
        self._cost = lru_cache(maxsize=256)(profile.cost if profile else _no_cost)
        self.metrics = metrics or ModelMetrics(manifest.name, manifest.version)
        self._partners = partners
        axes = manifest.interface.outputs[0].shape[1:3] if manifest.interface.size is None else (0,)
        self._generated_pixels = math.prod(axis for axis in axes if isinstance(axis, int))
        """The pixels of an image that a generator makes; 0 for translators."""
        # A fixed number of threads also limits how many images are decoded at one time, and with it their memory.
        self._threads = ThreadPoolExecutor(cpu_cores(), thread_name_prefix="images")

    @property
    def is_slow(self) -> bool:
        """Whether runs take so long that it pays to notice that a client has disconnected."""
        return self._profile is None or not self._profile.inline

    async def call(self, verb: Verb[R], request: R, deadline: float | None = None) -> File:
        """Return the answer of `verb` to `request`. `deadline` is in the event loop's time.

        Raises:
            TooLargeError: the request is for more images than the limit.
            OverloadedError: the process has too much work in progress.
            ServingError: as `verb.plan`, `run` and `verb.render`.
        """
        self._check_count(request.count)
        with self._admitted(request.count, 0, deadline):
            prepared = await self.decode(0, self._plan, verb, request)
            return await self._call(verb, request, prepared, deadline)

    def check(self, verb: Verb[R], request: R) -> None:
        """Refuse a request that `call` would refuse without a run.

        Raises:
            TooLargeError, ServingError: as `call`.
        """
        self._check_count(request.count)
        self._plan(verb, request)

    async def call_with_images(
        self, verb: Verb[Any], keys: ImagesRequest, contents: Sequence[bytes], deadline: float | None = None
    ) -> File:
        """Return the answer of `verb` to the request `keys` with the images of the files `contents`.

        Raises:
            ServingError: as `ImagesRequest.check_images`, `ImagesRequest.with_images` and `call`.
        """
        # A header is short, because its readers have limits. Those of many files are read in a thread.
        size = 0 if len(contents) == 1 else sum(map(len, contents))
        work = await self.work(size, keys.check_images, contents, self.interface, self.limits)
        with self._admitted(*work, deadline):
            request, prepared = await self.decode(work.pixels, self._plan_with_images, verb, keys, contents)
            return await self._call(verb, request, prepared, deadline)

    async def run(self, inputs: Feeds, deadline: float | None = None) -> Tensors:
        """Return the outputs by name. Source images of any legal size are padded, and the output images cropped.

        Raises:
            BadRequestError, ImageSizeError: as `feeds.check`.
            TooLargeError: there are more rows than the limit.
            OverloadedError: the process has too much work in progress.
            DeadlineError, ServingError: as `Submit`.
        """
        with self._admitted(_images(inputs), _pixels(inputs.get(SOURCE)), deadline):
            size = _size(inputs)
            if size <= _INLINE_PIXELS:
                prepared = self._prepare_one(inputs)
            else:
                prepared = await self.work(size, self._prepare_one, inputs)
            return await self._run(prepared, deadline)

    async def run_all(self, planned: Sequence[Feeds], deadline: float | None = None) -> list[Tensors]:
        """Return the outputs for each of the feeds `planned`, which are admitted together. See `run`."""
        images, pixels = sum(map(_images, planned)), sum(_pixels(inputs.get(SOURCE)) for inputs in planned)
        with self._admitted(images, pixels, deadline):
            return await self._run_admitted(planned, deadline)

    def _plan(self, verb: Verb[R], request: R) -> list[_Prepared]:
        return self._prepare(verb.plan(self.interface, request))

    def _prepare(self, planned: Sequence[Feeds]) -> list[_Prepared]:
        self._check_count(sum(map(_images, planned)))
        return [self._prepare_one(inputs) for inputs in planned]

    def _prepare_one(self, inputs: Feeds) -> _Prepared:
        feeds.check(self.interface, inputs)
        self._check_count(rows(inputs))
        return _Prepared(inputs, feeds.pad(self.interface, self.manifest.buckets, inputs))

    def _plan_with_images(
        self, verb: Verb[Any], keys: ImagesRequest, contents: Sequence[bytes]
    ) -> tuple[ImagesRequest, list[_Prepared]]:
        request = keys.with_images(contents, self.interface, self.limits)
        return request, self._plan(verb, request)

    async def _call(self, verb: Verb[R], request: R, prepared: Sequence[_Prepared], deadline: float | None) -> File:
        run_partner = self._partner(request.partner) if isinstance(request, PartnerRequest) else None
        outputs = await _all_of(self._run, prepared, deadline)
        if run_partner is not None and verb.plan_partner is not None:
            outputs += await run_partner(verb.plan_partner(outputs, request), deadline)
        pixels = sum(_pixels(output[IMAGE]) for output in outputs)
        return await self.encode(pixels, verb.answer, self.interface, outputs, request, self.origin)

    def _partner(self, name: str | None) -> RunAll:
        """Return what runs feeds on the model `name`, or on the default partner.

        Raises:
            BadRequestError: `name` is None and there is no default.
            NotFoundError: there are no other models.
        """
        partners = self._partners
        model = name or (partners.default if partners else None)
        if model is None:
            raise no_partner(self.manifest)
        if model == self.manifest.name:
            return self._run_admitted
        if partners is None:
            raise NotFoundError(f"there is no model {printable(model)}")

        async def run_all(planned: Sequence[Feeds], deadline: float | None) -> list[Tensors]:
            seconds = None if deadline is None else deadline - time.monotonic()
            # The request may have begun without a task, which limits of time need.
            return await asyncio.create_task(partners.run_all(model, planned, seconds))

        return run_all

    async def _run_admitted(self, planned: Sequence[Feeds], deadline: float | None) -> list[Tensors]:
        """Run feeds of a request that is counted already."""
        prepared = await self.work(sum(map(_size, planned)), self._prepare, planned)
        return await _all_of(self._run, prepared, deadline)

    async def _run(self, prepared: _Prepared, deadline: float | None) -> Tensors:
        outputs = await self._submit(prepared.padded, deadline)
        return feeds.crop(self.interface, prepared.inputs, outputs)

    def _admitted(self, images: int, pixels: int, deadline: float | None) -> AbstractContextManager[None]:
        """Return the context in which the work of `images` images, of `pixels` source pixels together, is counted."""
        remaining = math.inf if deadline is None else deadline - time.monotonic()
        seconds = self._cost(images, pixels // images) if images else 0.0
        made = images * self._generated_pixels + pixels * self.interface.scale**2
        return self.admission.work(images, pixels + made, seconds, remaining)

    def _check_count(self, n: int) -> None:
        if n > self.limits.images:
            raise TooLargeError(f"the request is for {n} images and the limit is {self.limits.images}")
        if n * self._generated_pixels > self.limits.pixels:
            raise TooLargeError(
                f"the request is for {n} images of {self._generated_pixels} pixels and the limit is "
                f"{self.limits.pixels} pixels in all"
            )

    async def decode(self, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which makes tensors of a request, as `work` does, and record the time that it took."""
        began = time.perf_counter()
        if pixels <= _INLINE_PIXELS:  # as `work` does, which would be another coroutine
            result = function(*args, **kwargs)
        else:
            result = await self.work(pixels, function, *args, **kwargs)
        self.metrics.decode(time.perf_counter() - began)
        return result

    async def encode(self, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which makes an answer of tensors, as `work` does, and record the time that it took."""
        began = time.perf_counter()
        if pixels <= _INLINE_PIXELS:
            result = function(*args, **kwargs)
        else:
            result = await self.work(pixels, function, *args, **kwargs)
        self.metrics.encode(time.perf_counter() - began)
        return result

    async def work(self, pixels: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which works on about `pixels` pixels (or numbers, or bytes of text), here or in a thread."""
        if pixels <= _INLINE_PIXELS:
            return function(*args, **kwargs)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(function, *args, **kwargs))


def check_version(manifest: Manifest, version: str) -> None:
    """Raise NotFoundError if `version` is not that of `manifest`, which is served. An empty one stands for it."""
    served = str(manifest.version)
    if version not in ("", served):
        raise NotFoundError(f"version {version[:20]} of {manifest.name} is not served: version {served} is")


async def _all_of(
    run: Callable[[T, float | None], Coroutine[Any, Any, Tensors]], calls: Sequence[T], limit: float | None
) -> list[Tensors]:
    """Return the outputs of `run` for each of `calls`. All runs wait together; if one fails, the others are ended."""
    if len(calls) == 1:
        return [await run(calls[0], limit)]
    tasks = [asyncio.create_task(run(call, limit)) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _no_cost(images: int, pixels: int) -> float:
    return 0.0


def _size(inputs: Feeds) -> int:
    """Return the number of pixels of all images in `inputs`."""
    return sum(map(_pixels, inputs.values()))


def _images(inputs: Feeds) -> int:
    """Return the number of images that `inputs` are for. They may be malformed still."""
    return max([array.shape[0] for array in inputs.values() if array.ndim], default=0)


def _pixels(images: NDArray[Any] | None) -> int:
    """Return the number of pixels of images [n, h, w, c]."""
    return 0 if images is None else math.prod(images.shape[:3])
