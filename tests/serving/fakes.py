"""A fake Engine that computes what the tiny graphs compute, in numpy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.batching import Tensors
from serving.errors import EngineError


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
