"""JSON bodies of the server that are not part of the Open Inference Protocol."""

from __future__ import annotations

from pydantic import BaseModel

from export.interface import Kind


class ErrorBody(BaseModel):
    """The body of every failed request."""

    error: str
    code: str


class ModelSummary(BaseModel):
    """One entry of the server's list of models."""

    name: str
    version: int
    kind: Kind
