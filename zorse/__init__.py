"""The Python interface: `train`, `export`, `load`, the clients and `batch`. Each is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import os

    from export.pipeline import export
    from serving.async_client import AsyncClient
    from serving.client import Client
    from serving.local_model import LocalModel
    from trainer.run import train
    from zorse import batch

_MODULES = {
    "train": "trainer.run",
    "export": "export.pipeline",
    "Client": "serving.client",
    "AsyncClient": "serving.async_client",
}
"""The module of each name that is imported on first use."""
__all__ = ["AsyncClient", "Client", "batch", "export", "load", "train"]


def load(artifact: str | os.PathLike[str]) -> LocalModel:
    """Open an artifact in this process. The model has `.generate(n, seed)` or `.translate(images)`.

    Raises:
        serving.errors.ServingError: the artifact is missing or incomplete.
    """
    from serving.local_model import LocalModel

    return LocalModel.load(artifact)


def __getattr__(name: str) -> Any:
    if name == "batch":
        return importlib.import_module("zorse.batch")
    if name not in _MODULES:
        raise AttributeError(f"module 'zorse' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
