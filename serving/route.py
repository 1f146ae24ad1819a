"""A route of a model that runs it: its handler, and its description for the documentation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
