"""The HTTP routes of the verbs: one `POST /<verb>` for each registered verb, made from its request model."""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import unquote_plus

from serving.answers import Origin, negotiated
from serving.errors import BadRequestError, InvalidKeyError
from serving.forms import form_parts
from serving.http import HttpRequest, HttpResponse, until_disconnect
from serving.json_bodies import json_object
from serving.route import ModelRoute, openapi_schema
from serving.service import ModelService
from serving.verb import VERBS, Verb, VerbRequest

_FILE = {"type": "string", "format": "binary"}
_FILES = {"type": "array", "items": _FILE, "minItems": 1}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_PLACES = {"multipart/form-data": "form", "application/json": "body"}
"""Where the keys of a request with images are, for messages, by the type of its body."""
_MAX_QUERY_KEYS = 1000
_MAX_FIELDS = 1000
_FEW_IMAGES = 16
"""A request for more images is cancelled when its client disconnects, even if the model is fast."""
Answer = Callable[[ModelService, HttpRequest], Coroutine[Any, Any, HttpResponse]]


def verb_routes() -> list[ModelRoute]:
    """Return the routes of all verbs that are registered now."""
    return [_route(name, VERBS.find(name)) for name in VERBS.names()]


def _route(name: str, verb: Verb[Any]) -> ModelRoute:
    return ModelRoute(
        name=name,
        answer=_images_handler(verb) if verb.takes_images else _plain_handler(name, verb),
        description=verb.request.__doc__ or "",
        tag="images",
        media_types=verb.answer_types,
        openapi=_documentation(verb),
    )


def _plain_handler(name: str, verb: Verb[Any]) -> Answer:
    """Return the handler of a verb whose answer is a pure function of the model and the keys."""

    def parse(origin: Origin, request: HttpRequest) -> tuple[VerbRequest, str]:
        place = "body" if request.body else "query"
        parsed = verb.request.parse(_accepted(verb, _plain_keys(request), request.headers), place)
        return parsed, entity_tag(origin, name, parsed)

    async def answer(service: ModelService, request: HttpRequest) -> HttpResponse:
        parsed, tag = await service.work(len(request.body), parse, service.origin, request)
        if _matches(request.headers.get("if-none-match"), tag):
            service.check(verb, parsed)
            return HttpResponse(b"", {"etag": tag}, 304)
        work = service.call(verb, parsed, request.deadline)
        if parsed.count > _FEW_IMAGES and not request.is_watched:
            work = until_disconnect(work, request.receive)
        file = await work
        return HttpResponse(file.content, {"content-type": file.media_type, "etag": tag, **file.headers})

    return answer


def _images_handler(verb: Verb[Any]) -> Answer:
    """Return the handler of a verb on image files."""

    async def answer(service: ModelService, request: HttpRequest) -> HttpResponse:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        place = _PLACES.get(media_type, "query")
        # A body that is one file needs no work.
        size = 0 if place == "query" else len(request.body)
        keys, contents = await service.work(size, _keys_and_images, request, place)
        parsed = verb.request.parse(_accepted(verb, keys, request.headers), place)
        file = await service.call_with_images(verb, parsed, contents, request.deadline)
        return HttpResponse(file.content, {"content-type": file.media_type, **file.headers})

    return answer


def entity_tag(origin: Origin, verb: str, request: VerbRequest) -> str:
    """Return the ETag of an answer: equal requests to equal models have equal ones.

    It is weak, because processors with other instructions may round a pixel differently.
    """
    text = f"{origin.digest} {verb} {request.model_dump_json()}"
    return f'W/"{hashlib.blake2b(text.encode(), digest_size=16).hexdigest()}"'


def _matches(header: str | None, tag: str) -> bool:
    """Return whether If-None-Match has `tag`, compared weakly (RFC 9110, section 13.1.2).

    `*` stands for any answer that a cache has, and not for the one that this request would get: it never matches.
    """
    if header is None:
        return False
    return tag.removeprefix("W/") in (part.strip().removeprefix("W/") for part in header.split(","))


def _accepted(verb: Verb[Any], keys: dict[str, Any], headers: Mapping[str, str]) -> dict[str, Any]:
    """Return `keys` with the format that the header Accept prefers.

    Raises:
        NotAcceptableError: the header allows no media type of the verb.
    """
    accept = headers.get("accept", "")
    if accept in ("", "*/*"):
        return keys
    return negotiated(keys, accept, verb.formats, verb.answer_types)


def _plain_keys(request: HttpRequest) -> dict[str, Any]:
    """Return the keys of a request, which are in the query or in a JSON body."""
    if not request.body:
        return _query(request)
    if request.query:
        raise BadRequestError("the request has keys in its query and in its JSON body: leave one of them out")
    return json_object(request.body)


def _keys_and_images(request: HttpRequest, place: str) -> tuple[dict[str, Any], list[bytes]]:
    """Return the keys of a request with images, and the image files.

    `place` says what the body is: one file, a form with files in the fields `image` or `images`, or JSON with base64 in
    these keys. The other keys are in the query, and those of a form or JSON there too.
    """
    keys = _query(request)
    contents: list[bytes] = []
    if place == "form":
        fields: dict[str, Any] = {}
        for part in form_parts(request.headers["content-type"], request.body, _MAX_FIELDS):
            if part.name in ("image", "images"):
                contents.append(part.content)
            elif part.file_name is None:
                fields.setdefault(part.name, []).append(part.content.decode(errors="replace"))
            else:
                raise BadRequestError(f"the form has a file in the field {part.name[:40]!r}: send it as 'image'")
        more = {name: values[0] if len(values) == 1 else values for name, values in fields.items()}
    elif place == "body":
        more = json_object(request.body, has_images=True)
        for name in ("image", "images"):
            files = more.pop(name, [])
            contents += [_base64(file, name) for file in (files if isinstance(files, list) else [files])]
    else:
        return keys, [request.body]
    for name in more:
        if name in keys:
            raise BadRequestError(f"the key {name[:40]} is in the query and in the body: leave one of them out")
    return keys | more, contents


def _base64(text: Any, key: str) -> bytes:
    if not isinstance(text, str):
        raise InvalidKeyError(f"body.{key}: expected the base64 of an image file")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, or letters that are not ASCII
        raise InvalidKeyError(f"body.{key}: this is not base64 ({error})") from error


def _query(request: HttpRequest) -> dict[str, Any]:
    """Return the keys of the query; the value of a key that is repeated is a list."""
    if not request.query:
        return {}
    if request.query.count("&") >= _MAX_QUERY_KEYS:
        raise BadRequestError(f"the query has more than {_MAX_QUERY_KEYS} keys")
    keys: dict[str, Any] = {}
    for part in request.query.split("&"):
        if not part:
            continue
        key, _, value = part.partition("=")
        if "%" in part or "+" in part:
            key, value = unquote_plus(key), unquote_plus(value)
        if key not in keys:
            keys[key] = value
        elif isinstance(keys[key], list):
            keys[key].append(value)
        else:
            keys[key] = [keys[key], value]
    return keys


def _documentation(verb: Verb[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of the query and the body. Keys that are lists of lists are for JSON alone."""
    schema = openapi_schema(verb.request)
    properties: dict[str, Any] = schema["properties"]
    query = [{"name": key, "in": "query", "schema": field} for key, field in properties.items() if key != "latents"]
    body: dict[str, Any] = {"application/json": {"schema": schema}}
    if verb.takes_images:
        files = {"image": _BASE64, "images": {"type": "array", "items": _BASE64}}
        encoded = {**schema, "properties": {**files, **properties}}
        form = {**schema, "properties": {"image": _FILES, **properties}, "required": ["image"]}
        body = {
            "image/*": {"schema": _FILE},
            "multipart/form-data": {"schema": form},
            "application/json": {"schema": encoded},
        }
    document: dict[str, Any] = {"parameters": query, "requestBody": {"required": verb.takes_images, "content": body}}
    if not verb.takes_images:
        document["responses"] = {"304": {"description": "The client has the answer with this ETag (If-None-Match)."}}
    return document
