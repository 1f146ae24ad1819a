"""The routes of models and versions that are not served.

They match the paths of all others, and must be the last of an application.
"""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request

from serving.errors import NotFoundError

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
server_router = APIRouter(include_in_schema=False)
model_router = APIRouter(include_in_schema=False)


@server_router.api_route("/v2/models/{name}", methods=_METHODS)
@server_router.api_route("/v2/models/{name}/{rest:path}", methods=_METHODS)
async def unknown_model(name: str, request: Request) -> None:
    """Answer 404: the paths of existing models are routed to their own applications.

    `/v2/models/stats` is no model: methods that its route lacks arrive here.
    """
    if name == "stats":
        raise HTTPException(405)
    for skipped, reason in request.app.state.served().unavailable.items():
        if skipped.partition("/")[0] == name:
            raise NotFoundError(f"the model {skipped} is not served: {reason}")
    names = ", ".join(summary.name for summary in request.app.state.served().models)
    raise NotFoundError(f"there is no model {name[:80]!r} on this server: it serves {names}")


@model_router.post("/versions/{version}/{rest:path}")
async def unknown_version(version: str, request: Request) -> None:
    """Answer 404: this is no route of the version that is served; other versions are refused before."""
    raise NotFoundError(f"there is no POST {request.url.path[:200]}")
