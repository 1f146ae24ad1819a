"""A fake Engine that computes what the tiny graphs compute, in numpy, and a fake of what loads and unloads models."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.batching import Tensors
from serving.changes import Action
from serving.config import GatewaySettings
from serving.errors import EngineError, NotFoundError
from serving.served import UNLOADED, served_by
from serving.surroundings import Surroundings, in_folder


class Traced(np.ndarray):
    """An array that records the threads in which it is concatenated or padded."""

    threads: set[threading.Thread]

    def __array_finalize__(self, other: object) -> None:
        self.threads = getattr(other, "threads", set())

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self.threads.add(threading.current_thread())
        return super().__array_function__(function, types, args, kwargs)


class FakeEngine:
    """Inverts a source and repeats each pixel `scale` times; fails on a source that begins with 13.

    Paints the first number of a latent as grey, and the label as the blue of the first pixel.
    """

    def __init__(self, side: int = 8, scale: int = 1) -> None:
        self.side, self.scale = side, scale
        self.shapes: list[tuple[int, ...]] = []
        self.providers = ("FakeExecutionProvider",)

    def run(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        if "latent" in tensors:
            grey = np.clip(128 + 40 * tensors["latent"][:, 0], 0, 255).astype(np.uint8)
            self.shapes.append(tensors["latent"].shape)
            images = np.tile(grey[:, None, None, None], (1, self.side, self.side, 3))
            if "label" in tensors:
                images[:, 0, 0, 2] = tensors["label"]
            return {"image": images}
        source = tensors["source"]
        self.shapes.append(source.shape)
        if source[0, 0, 0, 0] == 13:
            raise EngineError("thirteen")
        return {"image": (255 - source).repeat(self.scale, axis=1).repeat(self.scale, axis=2)}

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        """Run the tensors at once, in place of a batcher."""
        return self.run(tensors)


class FakeChanges:
    """Loads and unloads the models of the gateway with `settings` by telling it that this was done."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._served, self._folder = served_by(settings)(), settings.folder
        self._unloaded: set[str] = set()

    async def __call__(self, action: Action, model: str) -> None:
        """See `Ask`."""
        if model not in self._served.names:
            raise NotFoundError(f"there is no model {model}")
        (self._unloaded.add if action == "unload" else self._unloaded.discard)(model)
        if self._folder is not None:
            models = tuple(one for one in self._served.models if one.name not in self._unloaded)
            gone = {f"{one.name}/{one.version}": UNLOADED for one in self._served.models if one not in models}
            change = {"names": [one.name for one in models], "models": models, "unavailable": gone}
            self._served.model_copy(update=change).write(self._folder)


def with_changes(settings: GatewaySettings) -> Surroundings:
    """Return the surroundings of the gateway with `settings`, in which models can be loaded and unloaded."""
    return dataclasses.replace(in_folder(settings), ask=FakeChanges(settings))
