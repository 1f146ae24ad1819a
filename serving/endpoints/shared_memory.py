"""Triton's shared memory extensions: no memory is registered, and none can be."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from serving.errors import NotFoundError, UnsupportedError

server_router = APIRouter(tags=["shared memory"])

NO_SHARED_MEMORY = "this server reads no shared memory: send the data of the tensors in the request"


def _add_routes(kind: str) -> None:
    prefix = f"/v2/{kind}sharedmemory"

    @server_router.get(f"{prefix}/status", name=f"{kind}_status")
    async def status() -> list[Any]:
        """Return the registered regions: none."""
        return []

    @server_router.get(f"{prefix}/region/{{region}}/status", name=f"{kind}_region_status")
    async def region_status(region: str) -> None:
        """Answer 404: no region is registered."""
        raise no_region(kind, region)

    @server_router.post(f"{prefix}/region/{{region}}/register", name=f"{kind}_register")
    async def register(region: str) -> None:
        """Refuse to register a region."""
        raise UnsupportedError(NO_SHARED_MEMORY)

    @server_router.post(f"{prefix}/unregister", name=f"{kind}_unregister")
    @server_router.post(f"{prefix}/region/{{region}}/unregister", name=f"{kind}_unregister_region")
    async def unregister() -> dict[str, Any]:
        """Answer 200: after the request no region is registered, as before it."""
        return {}


def no_region(kind: str, region: str) -> NotFoundError:
    """Return the error for a question about a region of memory of this kind."""
    return NotFoundError(f"there is no region {region[:80]!r} of {kind} shared memory")


for _kind in ("system", "cuda"):
    _add_routes(_kind)
