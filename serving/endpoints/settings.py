"""Triton's trace and logging extensions: the settings can be read, and are not changed by requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from serving.errors import BadRequestError, UnsupportedError
from serving.json_bodies import json_object

server_router = APIRouter(tags=["settings"])
model_router = APIRouter(tags=["settings"])

TRACE: dict[str, Any] = {
    "trace_level": ["OFF"],
    "trace_rate": "0",
    "trace_count": "0",
    "log_frequency": "0",
    "trace_file": "",
}
"""The trace settings in the form of Triton: nothing is traced."""
_BODY: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}


@server_router.get("/v2/trace/setting")
@model_router.get("/trace/setting")
async def trace_settings() -> dict[str, Any]:
    """Return the trace settings: nothing is traced."""
    return TRACE


@server_router.post("/v2/trace/setting", openapi_extra=_BODY)
@model_router.post("/trace/setting", openapi_extra=_BODY)
async def update_trace_settings(request: Request) -> dict[str, Any]:
    """Return the trace settings, or refuse a change. `null` stands for the present value."""
    return unchanged(TRACE, json_object(await request.body()))


@server_router.get("/v2/logging")
async def log_settings(request: Request) -> dict[str, Any]:
    """Return the log settings in the form of Triton: JSON, on the standard error of `zorse serve`.

    Besides warnings and errors each request is logged where the server was started with `--access-log`.
    """
    return log_settings_of(access_log=request.app.state.access_log)


def log_settings_of(*, access_log: bool) -> dict[str, Any]:
    """Return the log settings of a server that logs each request or not."""
    return {
        "log_file": "",
        "log_info": access_log,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "json",
    }


@server_router.post("/v2/logging", openapi_extra=_BODY)
async def update_log_settings(request: Request) -> dict[str, Any]:
    """Return the log settings, or refuse a change."""
    return unchanged(await log_settings(request), json_object(await request.body()))


def unchanged(settings: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Return `settings`.

    Raises:
        BadRequestError: `wanted` has an unknown key.
        UnsupportedError: `wanted` has another value than `settings`; None stands for the present one.
    """
    for key, value in wanted.items():
        if key not in settings:
            raise BadRequestError(f"there is no setting {key[:40]!r}: the settings are {', '.join(settings)}")
        if value is not None and value != settings[key]:
            raise UnsupportedError(f"{key} is {settings[key]!r} and is not changed by requests: start the server again")
    return settings
