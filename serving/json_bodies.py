"""JSON in the bodies of requests: limited before it is parsed, since a parser holds the interpreter until its end."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from serving.errors import BadRequestError, TooLargeError

MAX_JSON = 2**20
"""The most bytes of the JSON of a request, which is parsed in one go; images in base64 may make it longer."""
_MAX_COMMAS = 10_000
_MAX_CONTAINERS = 2**17


def check_json(content: bytes, length: int, max_bytes: int = MAX_JSON) -> None:
    """Refuse the JSON in the first `length` bytes of `content` if it takes long to parse.

    That is so for more than `max_bytes` bytes, and for more than `_MAX_CONTAINERS` lists and objects.

    Raises:
        TooLargeError: it has more.
    """
    if length > max_bytes:
        raise TooLargeError(
            f"the request has {length} bytes of JSON and the server takes {max_bytes}: "
            "send large tensors to infer, as binary data"
        )
    if length > _MAX_CONTAINERS and sum(content.count(mark, 0, length) for mark in (b"[", b"{")) > _MAX_CONTAINERS:
        raise TooLargeError(f"the JSON has more than {_MAX_CONTAINERS} lists and objects: send flat or binary data")


def json_object(content: bytes, *, has_images: bool = False) -> dict[str, Any]:
    """Return the object in the JSON `content`, an empty one if `content` is empty.

    It may have `MAX_JSON` bytes, or, if it has the base64 of images, any number of bytes but no more than `_MAX_COMMAS`
    commas: many values take long to parse, and long texts do not.

    Raises:
        BadRequestError: `content` is not the JSON of an object.
        TooLargeError: it is larger.
    """
    if not has_images:
        check_json(content, len(content))
    elif content.count(b",") > _MAX_COMMAS:
        raise TooLargeError(f"the JSON of the request has more than {_MAX_COMMAS} values: send fewer images, or a form")
    try:
        value = from_json(content or b"{}")
    except ValueError as error:
        raise BadRequestError(f"the body is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRequestError(f"the body is a JSON {type(value).__name__}: send an object of keys, {{…}}")
    return value
