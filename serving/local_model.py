"""One model in this process: it answers verbs and runs arrays without a server."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Self

from numpy.typing import NDArray

from export.feeds import Feeds
from export.interface import IMAGE
from export.manifest import Manifest
from serving import artifacts, feeds
from serving.answers import Origin
from serving.batching import Tensors, capacity, chunks, group_key, merge
from serving.codec import File
from serving.config import Batching, DeviceChoice, Limits
from serving.engine import Engine, resolve_device
from serving.errors import BadRequestError, TooLargeError
from serving.opening import load_checked_engine
from serving.partners import no_partner, partner_place
from serving.service import batching_of
from serving.verb import VERBS, Verb

ImageFiles = bytes | Sequence[bytes]
"""The bytes of an image file, or of several."""
OpenPartner = Callable[[str | None], "LocalModel"]
"""Opens a model by name, or without one the model that translates back."""
_LOCAL_BATCHING = Batching()
MAX_LOCAL_IMAGES = 10_000
"""The most images of one call of a verb in this process, which holds them all."""
_LIMITS = Limits(images=MAX_LOCAL_IMAGES, pixels=2**28)
"""The limits of the image files of one call."""


class LocalModel:
    """One model in this process, synchronous and without a server.

    Image files have limits, and a verb makes at most `MAX_LOCAL_IMAGES` images; `generate` and `translate` have none.
    """

    def __init__(self, manifest: Manifest, engine: Engine, partner: OpenPartner | None = None) -> None:
        """Use `engine` for the model of `manifest`. `partner` opens other models, for verbs on two."""
        self.manifest = manifest
        self.interface = manifest.interface
        self._engine = engine
        self._partner = partner

    @cached_property
    def origin(self) -> Origin:
        """The facts of the model in its answers."""
        return Origin.of(self.manifest)

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: DeviceChoice = "auto", threads: int | None = None) -> Self:
        """Open the model at `path`, a path or URI: an artifact folder, a model folder (newest version) or MODEL@ALIAS.

        Raises:
            ArtifactError: there is no sound artifact.
            EngineError: the graph does not run on `device`.
        """
        artifact = artifacts.load(path)

        @cache
        def open_partner(name: str | None) -> LocalModel:
            return cls.load(partner_place(artifact, name), device, threads)

        return cls(artifact.manifest, load_checked_engine(artifact, resolve_device(device), threads), open_partner)

    def generate(
        self,
        n: int = 1,
        seed: int = 0,
        first: int = 0,
        labels: str | int | Sequence[str | int] | None = None,
        truncation: float = 1.0,
    ) -> NDArray[Any]:
        """Return the images `first` … `first + n - 1` of `seed`: [n, h, w, c] in the model's dtype.

        `labels` and `truncation` are as in the verb `generate`.

        Raises:
            UnsupportedError: the model is not a generator, or has no classes and `labels` is given.
            BadRequestError: a number is out of range, or a label is not a class of the model.
        """
        verb = VERBS.find("generate")
        keys = {"n": n, "seed": seed, "first": first, "labels": labels, "truncation": truncation}
        (inputs,) = verb.plan(self.interface, verb.request.parse(keys))
        return self.run(inputs)[IMAGE]

    def translate(self, images: NDArray[Any]) -> NDArray[Any]:
        """Translate `images` [h, w, c] or [n, h, w, c]: the same with `scale` times the height and width.

        Raises:
            UnsupportedError: the model is not a translator.
            BadRequestError, ImageSizeError: as `feeds.check`.
        """
        batch = images[None] if images.ndim == 3 else images
        translated = self.run(feeds.source_feeds(self.interface, batch))[IMAGE]
        return translated[0] if images.ndim == 3 else translated

    def call(self, verb: str, image: ImageFiles | None = None, **keys: Any) -> Any:
        """Call a verb and return its answer as arrays (see `File.value`). Arguments and errors are those of `fetch`."""
        return self.fetch(verb, image, **keys).value()

    def fetch(self, verb: str, image: ImageFiles | None = None, **keys: Any) -> File:
        """Call a verb with the `keys` of its request and return its answer as a file.

        `image` is the bytes of an image file, or a list of them, for verbs that take images.

        Raises:
            NotFoundError: there is no such verb.
            BadRequestError: a key is unknown or missing, or a value is not legal.
            TooLargeError: the request is for more than `MAX_LOCAL_IMAGES` images.
            ServingError: as the verb's functions, `run`, and `partner_place`.
        """
        entry = VERBS.find(verb)
        request = self._with_images(entry, entry.request.parse(keys), image)
        if request.count > MAX_LOCAL_IMAGES:
            raise TooLargeError(f"the request is for {request.count} images and the limit is {MAX_LOCAL_IMAGES} a call")
        planned = entry.plan(self.interface, request)
        partner = self._open_partner(request.partner) if entry.plan_partner is not None else None
        outputs = [self.run(inputs) for inputs in planned]
        if partner is not None and entry.plan_partner is not None:
            outputs += [partner.run(inputs) for inputs in entry.plan_partner(outputs, request)]
        return entry.answer(self.interface, outputs, request, self.origin)

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

    def _open_partner(self, name: str | None) -> LocalModel:
        if self._partner is None:
            raise no_partner(self.manifest)
        return self._partner(name)

    def _with_images(self, verb: Verb[Any], request: Any, image: ImageFiles | None) -> Any:
        if verb.takes_images != (image is not None):
            raise BadRequestError("the verb takes no image" if image is not None else "the verb takes an image file")
        if image is None:
            return request
        contents = [image] if isinstance(image, bytes) else list(image)
        request.check_images(contents, self.interface, _LIMITS)
        return request.with_images(contents, self.interface, _LIMITS)
