"""The numbers of all models for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.readings import expose

server_router = APIRouter(tags=["metrics"])


@server_router.get("/metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """Return the numbers of all replicas of all models in Prometheus's text format."""
    return Response(expose(await request.app.state.families()), media_type=CONTENT_TYPE_LATEST)
