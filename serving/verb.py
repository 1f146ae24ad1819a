"""Verbs: what users ask of a model beside plain inference, such as `generate`. Each is one file of `serving/verbs/`.

A verb has a request model, `plan`, which turns a request into the model's inputs, and `render`, which turns the model's
outputs into images or a file. A verb on two models also has `plan_partner`. All these functions are pure. The HTTP
route, its documentation, `Client.call`, `LocalModel.call` and the command `zorse call` follow from the registered verb.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, NamedTuple, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from export.feeds import Feeds
from export.interface import Interface
from export.manifest import NAME
from serving import codec
from serving.answers import FORMATS, Layout, Origin, Pictures, finish
from serving.batching import Tensors
from serving.codec import ZIP, File
from serving.config import Limits
from serving.errors import BadRequestError, InvalidKeyError, NotFoundError, TooLargeError
from serving.feeds import check_source_size, source_channels, source_size
from serving.number_keys import has_boolean, number_keys
from zorse_common.errors import nearest_hint, printable, shortened
from zorse_common.images import check_range
from zorse_common.registry import Registry

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed of latents."""
Number = Annotated[int, Field(ge=0, lt=2**62)]
"""The number of an image of a seed."""


def _as_classes(value: Any) -> Any:
    """Return the entry of a list of one, which a query cannot tell from a single value."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


Class = Annotated[str | int, BeforeValidator(_as_classes)]
"""A class of a conditional generator, by name or index."""
Classes = Annotated[str | int | Annotated[list[str | int], Field(fail_fast=True)], BeforeValidator(_as_classes)]
"""One class for all images, or a list with one for each image."""
Code = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1, fail_fast=True)]
"""A latent that the request has in full."""
OR_SINGLE = BeforeValidator(lambda value: [value] if isinstance(value, int | str) else value)
"""Marks a key that is a list, and for which a single number is a list of one."""


def _size_text(value: Any) -> str:
    """Return a size as "<height>x<width>"; a number stands for both."""
    match = _SIZE.fullmatch(str(value))
    if match is None or isinstance(value, bool):
        raise PydanticCustomError("size", "give 256, or height and width as 256x512", {})
    return f"{match[1]}x{match[2] or match[1]}"


_SIZE = re.compile(r"([1-9][0-9]{0,4})(?:x([1-9][0-9]{0,4}))?")


def _model_name(value: str) -> str:
    if len(value) > 256 or not NAME.fullmatch(value):
        raise PydanticCustomError("model_name", "give the name of a model, without a version or an alias", {})
    return value


class VerbRequest(BaseModel):
    """The keys of a request, from a query, JSON or Python. A key that is None counts as left out."""

    model_config = ConfigDict(extra="forbid")

    @property
    def count(self) -> int:
        """How many images the model makes for this request. It is held against the server's limit before `plan`."""
        return 1

    @classmethod
    def parse(cls, keys: Mapping[str, Any], *place: str) -> Self:
        """Check `keys`; `place` is the part of the request that has them, for messages.

        Raises:
            InvalidKeyError: a key is unknown or missing, or a value is not legal.
        """
        present = {key: value for key, value in keys.items() if value is not None}
        for key, what in number_keys(cls).items():
            if has_boolean(present.get(key)):
                raise InvalidKeyError(f"{'.'.join((*place, key))}: give {what} and not true or false")
        try:
            return cls.model_validate(present)
        except ValidationError as error:
            raise InvalidKeyError(cls._complaint(present, error, place)) from error

    @classmethod
    def _complaint(cls, keys: Mapping[str, Any], error: ValidationError, place: tuple[str, ...]) -> str:
        """Return one line about the first unknown key, with the nearest known one, or else about the first value."""
        known = list(cls.model_fields)
        for key in keys:
            if key not in known:
                hint = nearest_hint(key, known) or f" (known: {', '.join(known)})"
                return ": ".join((*place, f"unknown key {printable(shortened(key))}{hint}"))
        first = error.errors()[0]
        where = ".".join(map(str, (*place, *first["loc"])))
        return ": ".join(filter(None, (where, first["msg"])))


class PictureRequest(VerbRequest):
    """The keys of a request that is answered with images. The field `format` of a subclass names its formats.

    Without `layout` several images are laid out as is usual for the verb (see `answers.pack`).
    """

    format: str = "png"
    layout: Layout | None = None


class SourceWork(NamedTuple):
    """The number of source images, or tiles of them, that a model translates, and their pixels together."""

    images: int
    pixels: int


class ImagesRequest(PictureRequest):
    """The keys beside image files. Over HTTP the files are the body, a form, or base64 in JSON.

    `black` and `white` are the values of these in files of more than 8 bits. `size`, a number or "<height>x<width>", is
    the size to which images are resized first.
    """

    black: float | None = None
    white: float | None = None
    size: Annotated[str, BeforeValidator(_size_text)] | None = None
    _images: list[NDArray[np.uint8]] = PrivateAttr(default_factory=list)

    @property
    def count(self) -> int:
        """The number of images."""
        return max(1, len(self._images))

    @property
    def images(self) -> list[NDArray[np.uint8]]:
        """The decoded images: uint8 [h, w, c]. They are attached before `plan`."""
        return self._images

    def source_work(self, interface: Interface, sizes: Sequence[tuple[int, int]]) -> SourceWork:
        """Return what the model has to do for image files of `sizes`, (width, height) each as their headers state them.

        An image that turns out to lie on its side has the height for the width.

        Raises:
            ImageSizeError: an image is larger than the model takes.
        """
        for width, height in sizes:
            check_source_size(source_size(interface), height, width, turned=True)
        return SourceWork(len(sizes), sum(width * height for width, height in sizes))

    def check_images(self, contents: Sequence[bytes], interface: Interface, limits: Limits) -> SourceWork:
        """Return what the model has to do for the image files `contents`; nothing is decoded.

        Raises:
            BadRequestError: there is no image.
            ImageSizeError: an image is larger than the model takes.
            TooLargeError: there are more images, or more pixels in all, than the limits.
            UnsupportedError, ImageError: as `with_images`.
        """
        source_channels(interface)
        if not contents:
            raise BadRequestError("there is no image: send it as the body, in a form, or in base64")
        if len(contents) > limits.images:
            raise TooLargeError(f"the request has {len(contents)} images and the limit is {limits.images}")
        sizes = [codec.check_file(content, limits) for content in contents]
        pixels = sum(width * height for width, height in sizes)
        if pixels > limits.pixels:
            raise TooLargeError(f"the images have {pixels} pixels in all and the limit is {limits.pixels}: send fewer")
        resized = self.resized
        work = self.source_work(interface, sizes if resized is None else [resized[::-1]] * len(sizes))
        if work.images > limits.images:
            raise TooLargeError(
                f"the images have {work.images} tiles and the limit is {limits.images}: scale them down"
            )
        return work

    def with_images(self, contents: Sequence[bytes], interface: Interface, limits: Limits) -> Self:
        """Decode the image files `contents` to the channels that the model takes, and keep them; return the request.

        Raises:
            UnsupportedError, TooLargeError, ImageError: as `source_channels` and `codec.decode`.
        """
        channels = source_channels(interface)
        decoded = [codec.decode(content, channels, limits, self.value_range, self.resized) for content in contents]
        return self.with_arrays(decoded)

    def with_arrays(self, images: list[NDArray[np.uint8]]) -> Self:
        """Keep the decoded `images`, uint8 [h, w, c]; return the request."""
        self._images = images
        return self

    @property
    def resized(self) -> tuple[int, int] | None:
        """The height and width to which images are resized, or None where they keep their own."""
        height, _, width = (self.size or "").partition("x")
        return (int(height), int(width)) if self.size is not None else None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Black and white, or None where the file's own facts count."""
        return None if self.black is None or self.white is None else (self.black, self.white)

    @model_validator(mode="after")
    def _check_value_range(self) -> Self:
        if (self.black is None) != (self.white is None):
            raise PydanticCustomError("value_range", "give black and white together", {})
        try:
            check_range(self.value_range)
        except ValueError as error:
            raise PydanticCustomError("value_range", "{why}", {"why": str(error)}) from error
        return self


class PartnerRequest(ImagesRequest):
    """The keys of a request to two models; `partner` is the name of the second one."""

    partner: Annotated[str, AfterValidator(_model_name)] | None = None


R = TypeVar("R", bound=VerbRequest)
Outputs = Sequence[Tensors]
"""The outputs of the model for each of the feeds that `plan` returned."""


@dataclass(frozen=True)
class Verb(Generic[R]):
    """One verb. Its documentation is the docstring of `request`.

    `plan` makes the inputs of one or more calls of the model, and raises a `ServingError` for a model that cannot do
    what is requested. `render` makes the answer of the outputs, whose images no longer have any padding.

    A verb on two models has a `plan_partner`, which makes the inputs of the partner model of the model's outputs, and
    its request is a `PartnerRequest`. `render` gets the outputs of both, the partner's last.

    `media_types` are those of the files that `render` returns. A verb whose request is a `PictureRequest` has those of
    its formats instead.
    """

    request: type[R]
    plan: Callable[[Interface, R], Sequence[Feeds]]
    render: Callable[[Interface, Outputs, R], Pictures | File]
    plan_partner: Callable[[Outputs, R], Sequence[Feeds]] | None = None
    media_types: tuple[str, ...] = ()

    def answer(self, interface: Interface, outputs: Outputs, request: R, origin: Origin) -> File:
        """Return the rendered and encoded answer of the model `origin`."""
        rendered = self.render(interface, outputs, request)
        if isinstance(request, PictureRequest):
            return finish(rendered, origin, request.format, request.layout)
        return finish(rendered, origin)

    @property
    def takes_images(self) -> bool:
        """Whether the request has image files."""
        return issubclass(self.request, ImagesRequest)

    @cached_property
    def formats(self) -> tuple[str, ...]:
        """The values of the key `format`, the default first; empty for a verb without this key."""
        if not issubclass(self.request, PictureRequest):
            return ()
        return get_args(self.request.model_fields["format"].annotation)

    @property
    def answer_types(self) -> tuple[str, ...]:
        """The media types of all answers."""
        return (*(FORMATS[name] for name in self.formats), ZIP) if self.formats else self.media_types


VERBS: Registry[Verb[Any]] = Registry("serving.verbs", "verb", NotFoundError)
GRPC_INFER = "grpc_infer"
"""The name of inference over gRPC in metrics and logs."""


def running_routes() -> tuple[str, ...]:
    """Return the names that the routes that run a model have in metrics and logs."""
    return ("infer", GRPC_INFER, *VERBS.names())
