"""The HTTP routes of the verbs: one `POST /<verb>` for each registered verb, made from its request model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs

from pydantic_core import from_json

from serving.errors import BadRequestError, InvalidKeyError
from serving.forms import form_parts
from serving.http import HttpRequest, HttpResponse
from serving.route import ModelRoute, openapi_schema
from serving.service import ModelService
from serving.verb import VERBS, ImageRequest, R, Verb

_FILE = {"type": "string", "format": "binary"}
_IMAGE_BODY: dict[str, Any] = {
    "multipart/form-data": {"schema": {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}},
    "image/*": {"schema": _FILE},
}
_MAX_QUERY_KEYS = 1000
_MAX_FIELDS = 8


def verb_routes() -> list[ModelRoute]:
    """Return the routes of all verbs that are registered now."""
    return [_route(name, VERBS.find(name)) for name in VERBS.names()]


def _route(name: str, verb: Verb[Any]) -> ModelRoute:
    return ModelRoute(
        name=name,
        answer=_handler(verb),
        description=verb.request.__doc__ or "",
        tag="images",
        media_types=verb.media_types,
        openapi=_documentation(verb),
    )


def _handler(verb: Verb[Any]) -> Callable[[ModelService, HttpRequest], Coroutine[Any, Any, HttpResponse]]:
    takes_image = issubclass(verb.request, ImageRequest)

    async def answer(service: ModelService, request: HttpRequest) -> HttpResponse:
        if takes_image:
            keys = verb.request.parse(_query(request), "query")
            file = await service.call_with_image(verb, keys, _image_bytes(request), request.deadline)
        else:
            file = await service.call(verb, _plain_request(verb, request), request.deadline)
        return HttpResponse(file.content, {"content-type": file.media_type})

    return answer


def _plain_request(verb: Verb[R], request: HttpRequest) -> R:
    """Parse a request whose keys are in the query or in a JSON body."""
    if not request.body:
        return verb.request.parse(_query(request), "query")
    if request.query:
        raise BadRequestError("the request has keys in its query and in its JSON body: leave one of them out")
    try:
        keys = from_json(request.body)
    except ValueError as error:
        raise InvalidKeyError(f"body: this is not JSON ({error})") from error
    return verb.request.parse(keys, "body")


def _query(request: HttpRequest) -> dict[str, Any]:
    """Return the keys of the query; the value of a key that is repeated is a list."""
    if not request.query:
        return {}
    try:
        lists = parse_qs(request.query, keep_blank_values=True, max_num_fields=_MAX_QUERY_KEYS)
    except ValueError as error:
        raise BadRequestError(f"the query has more than {_MAX_QUERY_KEYS} keys") from error
    return {key: values[0] if len(values) == 1 else values for key, values in lists.items()}


def _image_bytes(request: HttpRequest) -> bytes:
    content_type = request.headers.get("content-type", "")
    if not content_type.startswith("multipart/form-data"):
        return request.body
    parts = form_parts(content_type, request.body, _MAX_FIELDS)
    files = [part.content for part in parts if part.name == "image" and part.file_name is not None]
    if len(files) != 1:
        raise BadRequestError(f"the form has {len(files) or 'no'} files in the field 'image': send one")
    return files[0]


def _documentation(verb: Verb[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of the query and the body."""
    schema = openapi_schema(verb.request)
    query = [{"name": key, "in": "query", "schema": field} for key, field in schema["properties"].items()]
    takes_image = issubclass(verb.request, ImageRequest)
    body = _IMAGE_BODY if takes_image else {"application/json": {"schema": schema}}
    return {"parameters": query, "requestBody": {"required": takes_image, "content": body}}
