"""A fake Engine that computes what the tiny graphs compute, in numpy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.batching import Tensors
from serving.errors import EngineError


class Traced(np.ndarray):
    """An array that notes in which threads it is concatenated or padded."""

    threads: set[threading.Thread]

    def __array_finalize__(self, other: object) -> None:
        self.threads = getattr(other, "threads", set())

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        self.threads.add(threading.current_thread())
        return super().__array_function__(function, types, args, kwargs)


class FakeEngine:
    """Inverts a source; paints a latent's first number as grey; fails on a source that begins with 13."""

    def __init__(self, side: int = 8) -> None:
        self.side = side
        self.shapes: list[tuple[int, ...]] = []
        self.providers = ("FakeExecutionProvider",)

    def run(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        if "latent" in tensors:
            grey = np.clip(128 + 40 * tensors["latent"][:, 0], 0, 255).astype(np.uint8)
            self.shapes.append(tensors["latent"].shape)
            return {"image": np.broadcast_to(grey[:, None, None, None], (len(grey), self.side, self.side, 3))}
        source = tensors["source"]
        self.shapes.append(source.shape)
        if source[0, 0, 0, 0] == 13:
            raise EngineError("thirteen")
        return {"image": 255 - source}

    async def submit(self, tensors: Tensors) -> Tensors:
        """What a batcher offers, at once and alone."""
        return self.run(tensors)
