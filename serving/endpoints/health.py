"""Liveness of the server, and readiness of the server and of a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

server_router = APIRouter(tags=["health"])
model_router = APIRouter(tags=["health"])


@server_router.get("/v2/health/live")
async def live() -> dict[str, Any]:
    """Answer as long as the server runs."""
    return {"live": True}


@server_router.get("/v2/health/ready")
async def ready(request: Request, response: Response) -> dict[str, Any]:
    """Answer 200 if every model is ready, else 503 with the names of the others."""
    waiting = request.app.state.not_ready()
    if waiting:
        response.status_code = 503
    return {"ready": not waiting, "waiting": waiting}


@model_router.get("/ready")
@model_router.get("/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request) -> dict[str, Any]:
    """Answer 200: a replica takes requests only after it was loaded and warmed up."""
    return {"name": request.app.state.manifest.name, "ready": True}
