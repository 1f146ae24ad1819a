"""Translate one image."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from serving import codec
from serving.errors import BadRequestError
from serving.schemas import TranslateRequest
from serving.service import ModelService, channels

model_router = APIRouter(tags=["images"])

_FILE = {"type": "string", "format": "binary"}
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"image": _FILE}, "required": ["image"]}
            },
            "image/*": {"schema": _FILE},
        },
    }
}
_IMAGE = {
    "content": {"image/png": {}, "image/jpeg": {}},
    "description": "The image, of the same size or scaled by the model's factor.",
}


@model_router.post("/translate", response_class=Response, responses={200: _IMAGE}, openapi_extra=_BODY)
async def translate(request: Request, query: Annotated[TranslateRequest, Query()]) -> Response:
    """An image file (the raw body, or the form's `image`) → the translated image."""
    service: ModelService = request.app.state.service
    data = await _image_bytes(request)
    wanted = channels(service.manifest)
    source = await run_in_threadpool(codec.decode, data, wanted, service.limits, query.value_range)
    image = (await service.translate(source[None]))[0]
    content = await run_in_threadpool(codec.encode, image, query.format)
    return Response(content, media_type=codec.MEDIA_TYPES[query.format])


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
