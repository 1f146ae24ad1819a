"""The front door for programs: train, export, load and ask, each imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from export.pipeline import export as export
    from serving.client import Client as Client
    from serving.local import load as load
    from zorse.train import train as train

_HOMES = {
    "train": "zorse.train",
    "export": "export.pipeline",
    "load": "serving.local",
    "Client": "serving.client",
}
__all__ = ["Client", "export", "load", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'zorse' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
