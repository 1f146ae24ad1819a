"""The HTTP routes of the verbs: one `POST /<verb>` for each registered verb, made from its request model."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from serving.errors import BadRequestError, InvalidKeyError
from serving.service import ModelService
from serving.verb import VERBS, ImageRequest, R, Verb

_FILE = {"type": "string", "format": "binary"}
_IMAGE_BODY: dict[str, Any] = {
    "multipart/form-data": {"schema": {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}},
    "image/*": {"schema": _FILE},
}


def verb_router() -> APIRouter:
    """Return the routes of all verbs that are registered now."""
    router = APIRouter(tags=["images"])
    for name in VERBS.names():
        verb = VERBS.find(name)
        content: dict[str, Any] = {media_type: {} for media_type in verb.media_types}
        router.add_api_route(
            f"/{name}",
            _endpoint(verb),
            methods=["POST"],
            name=name,
            description=verb.request.__doc__,
            response_class=Response,
            responses={200: {"description": "The answer as a file.", "content": content}},
            openapi_extra=_documentation(verb),
        )
    return router


def _endpoint(verb: Verb[Any]) -> Callable[[Request], Awaitable[Response]]:
    takes_image = issubclass(verb.request, ImageRequest)

    async def answer(request: Request) -> Response:
        service: ModelService = request.app.state.service
        parsed = await (_image_request if takes_image else _plain_request)(verb, request, service)
        file = await service.call(verb, parsed)
        return Response(file.content, media_type=file.media_type)

    return answer


async def _plain_request(verb: Verb[R], request: Request, service: ModelService) -> R:
    """Parse a request whose keys are in the query or in a JSON body."""
    body = await request.body()
    if not body:
        return verb.request.parse(_query(request), "query")
    if request.query_params:
        raise BadRequestError("the request has keys in its query and in its JSON body: leave one of them out")
    try:
        keys = json.loads(body)
    except json.JSONDecodeError as error:
        raise InvalidKeyError(f"body: this is not JSON ({error})") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise InvalidKeyError("body: this JSON has a number or a nesting that is too long") from error
    return verb.request.parse(keys, "body")


async def _image_request(verb: Verb[Any], request: Request, service: ModelService) -> ImageRequest:
    """Parse a request whose keys are in the query and whose body is an image file, raw or in a form."""
    parsed: ImageRequest = verb.request.parse(_query(request), "query")
    content = await _image_bytes(request)
    return await run_in_threadpool(parsed.with_image, content, service.interface, service.limits)


def _query(request: Request) -> dict[str, Any]:
    """Return the keys of the query; the value of a key that is repeated is a list."""
    params = request.query_params
    lists = {key: params.getlist(key) for key in params}
    return {key: values[0] if len(values) == 1 else values for key, values in lists.items()}


async def _image_bytes(request: Request) -> bytes:
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return await request.body()
    try:
        async with request.form(max_files=1, max_fields=8) as form:
            image = form.get("image")
            if not isinstance(image, UploadFile):
                raise BadRequestError("the form has no file in the field 'image'")
            return await image.read()
    except HTTPException as error:
        raise BadRequestError(f"the form cannot be read: {error.detail}") from error


def _documentation(verb: Verb[Any]) -> dict[str, Any]:
    """Return the OpenAPI description of the query and the body."""
    schema = verb.request.model_json_schema()
    query = [{"name": key, "in": "query", "schema": field} for key, field in schema["properties"].items()]
    takes_image = issubclass(verb.request, ImageRequest)
    body = _IMAGE_BODY if takes_image else {"application/json": {"schema": schema}}
    return {"parameters": query, "requestBody": {"required": takes_image, "content": body}}
