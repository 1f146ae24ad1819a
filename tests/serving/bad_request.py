"""The form of a bad request in tests: what is sent, and the answer that it must get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

INFER, GENERATE = "/v2/models/digits/infer", "/v2/models/digits/generate"
TRANSLATE, LABELLED = "/v2/models/invert/translate", "/v2/models/classes"


@dataclass(frozen=True)
class BadRequest:
    """One request, and what the server must answer."""

    name: str
    path: str
    body: bytes
    status: int
    code: str
    word: str
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)
