"""Liveness and readiness, of the server and of a model."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.concurrency import run_in_threadpool

server_router = APIRouter(tags=["health"])
model_router = APIRouter(tags=["health"])


@server_router.get("/v2/health/live")
async def live() -> dict[str, Any]:
    """The server answers."""
    return {"live": True}


@server_router.get("/v2/health/ready")
async def ready(request: Request, response: Response) -> dict[str, Any]:
    """Every model is ready; 503 and the names of the others until then."""
    waiting = await run_in_threadpool(request.app.state.not_ready)
    if waiting:
        response.status_code = 503
    return {"ready": not waiting, "waiting": waiting}


@model_router.get("/ready")
@model_router.get("/versions/{version}/ready", include_in_schema=False)
async def model_ready(request: Request) -> dict[str, Any]:
    """The model answers: it was loaded and warmed up before it took requests."""
    return {"name": request.app.state.name, "ready": True}
