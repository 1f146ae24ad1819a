"""A route of a model that runs it: its handler, and its description for the documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from serving.http import HttpRequest, HttpResponse
from serving.service import ModelService


@dataclass(frozen=True)
class ModelRoute:
    """The route `POST /v2/models/<model>/<name>`.

    `answer` makes the answer of a request, and may raise `ServingError`. `media_types` are those of the answers, and
    `openapi` is the description of the query and the body.
    """

    name: str
    answer: Callable[[ModelService, HttpRequest], Awaitable[HttpResponse]]
    description: str
    tag: str
    media_types: tuple[str, ...]
    openapi: Mapping[str, Any]


def openapi_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Return the JSON schema of `model` without references, which would not resolve inside an OpenAPI document."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(part: Any) -> Any:
        if isinstance(part, list):
            return [resolved(entry) for entry in part]
        if not isinstance(part, dict):
            return part
        if "$ref" in part:
            return resolved(definitions[part["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in part.items()}

    whole: dict[str, Any] = resolved(schema)
    return whole
