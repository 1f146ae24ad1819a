"""Verbs: what users ask of a model beside plain inference, such as `generate`. Each is one file of `serving/verbs/`.

A verb has a request model, `plan`, which turns a request into the model's inputs, and `render`, which turns the model's
outputs into a file. Both functions are pure. The HTTP route, its documentation, `Client.call`, `LocalModel.call` and
the command `zorse call` follow from the registered verb.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from export.interface import Interface
from serving import codec
from serving.batching import Tensors
from serving.codec import File
from serving.config import Limits
from serving.errors import InvalidKeyError, NotFoundError
from serving.feeds import Feeds, source_channels
from zorse_common.errors import nearest_hint, printable
from zorse_common.image_writer import MEDIA_TYPES
from zorse_common.images import check_range
from zorse_common.registry import Registry

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""A seed of latents."""
Number = Annotated[int, Field(ge=0, lt=2**62)]
"""The number of an image of a seed."""


def _unwrapped(value: Any) -> Any:
    """Return the entry of a list of one, which a query cannot tell from a single value."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value


Classes = Annotated[str | int | list[str | int], BeforeValidator(_unwrapped)]
"""One class of a conditional generator for all images, by name or index, or a list with one for each image."""
OR_SINGLE = BeforeValidator(lambda value: [value] if isinstance(value, int | str) else value)
"""Marks a key that is a list, and for which a single number is a list of one."""


class VerbRequest(BaseModel):
    """The keys of a request, from a query, JSON or Python. A key that is None counts as left out."""

    model_config = ConfigDict(extra="forbid")

    @property
    def count(self) -> int:
        """How many images the model makes for this request. It is held against the server's limit before `plan`."""
        return 1

    @classmethod
    def parse(cls, keys: Any, *place: str) -> Self:
        """Check `keys`, a mapping; `place` is the part of the request that has them, for messages.

        Raises:
            InvalidKeyError: a key is unknown or missing, or a value is not legal.
        """
        try:
            return cls.model_validate(keys)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, (*place, *first["loc"])))
            message = "expected an object of keys" if first["type"] == "model_type" else first["msg"]
            raise InvalidKeyError(f"{where}: {message}" if where else message) from error

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, keys: Any) -> Any:
        """Refuse an unknown key with the nearest known one, and leave out what is None."""
        if not isinstance(keys, dict):
            return keys
        known = list(cls.model_fields)
        for key in keys:
            if key not in known:
                hint = nearest_hint(key, known) or f" (known: {', '.join(known)})"
                raise PydanticCustomError(
                    "unknown_key", "unknown key {key}{hint}", {"key": printable(key), "hint": hint}
                )
        return {key: value for key, value in keys.items() if value is not None}


class ImageRequest(VerbRequest):
    """The keys beside an image file. Over HTTP the file is the body, and the keys are in the query.

    `black` and `white` are the values of these in a file of more than 8 bits.
    """

    black: float | None = None
    white: float | None = None
    _image: NDArray[np.uint8] | None = PrivateAttr(default=None)

    @property
    def image(self) -> NDArray[np.uint8]:
        """The decoded image: uint8 [h, w, c]."""
        assert self._image is not None, "the image of a request is attached before plan"
        return self._image

    def check_image(self, content: bytes, interface: Interface, limits: Limits) -> int:
        """Return the number of pixels of the image file `content`; nothing is decoded.

        Raises:
            UnsupportedError, TooLargeError, ImageError: as `with_image`.
        """
        source_channels(interface)
        return codec.check_file(content, limits)

    def with_image(self, content: bytes, interface: Interface, limits: Limits) -> Self:
        """Return the request with the image of the file `content`, decoded to the channels that the model takes.

        Raises:
            UnsupportedError, TooLargeError, ImageError: as `source_channels` and `codec.decode`.
        """
        request = self.model_copy()
        request._image = codec.decode(content, source_channels(interface), limits, self.value_range)
        return request

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


R = TypeVar("R", bound=VerbRequest)


@dataclass(frozen=True)
class Verb(Generic[R]):
    """One verb. Its documentation is the docstring of `request`.

    `plan` makes the model's inputs, and raises a `ServingError` for a model that cannot do what is requested. `render`
    makes the answer of the outputs, whose images no longer have any padding. `media_types` are those of the files that
    `render` returns.
    """

    request: type[R]
    plan: Callable[[Interface, R], Feeds]
    render: Callable[[Tensors, R], File]
    media_types: tuple[str, ...] = tuple(MEDIA_TYPES.values())


VERBS: Registry[Verb[Any]] = Registry("serving.verbs", "verb", NotFoundError)
