"""A model that waits until a test lets it continue, and a batcher over it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np

from serving.batcher import Batcher, BatchObserver
from serving.batching import Tensors
from serving.config import Batching
from serving.errors import EngineError


def ones(n: int, value: int, width: int = 2) -> Tensors:
    """Return `n` rows of `width` numbers `value`."""
    return {"x": np.full((n, width), value)}


class GatedModel:
    """Doubles its input and records every batch. A call sets `entered` and waits until `gate` is set."""

    def __init__(self, open_gate: bool = True) -> None:
        self.batches: list[list[int]] = []
        self.gate = threading.Event()
        self.entered = threading.Event()
        if open_gate:
            self.gate.set()

    def __call__(self, tensors: Tensors) -> Tensors:
        self.batches.append(tensors["x"].reshape(len(tensors["x"]), -1)[:, 0].tolist())
        self.entered.set()
        assert self.gate.wait(20)
        if (tensors["x"] == 13).any():
            raise EngineError("thirteen")
        return {"y": tensors["x"] * 2}


def play(
    scene: Callable[[Batcher], Coroutine[Any, Any, None]],
    run: Callable[[Tensors], Tensors],
    *,
    inline: bool = False,
    observer: BatchObserver | None = None,
    **options: Any,
) -> None:
    """Run `scene` with a batcher over `run`; `options` are those of `Batching`."""

    async def main() -> None:
        batcher = Batcher(run, Batching(**options), inline=inline, observer=observer)
        await asyncio.wait_for(scene(batcher), 30)

    asyncio.run(main())


async def entered(model: GatedModel) -> None:
    """Wait until the model is called."""
    assert await asyncio.to_thread(model.entered.wait, 20)
    model.entered.clear()


async def settled() -> None:
    """Run every task on the event loop that is ready to run."""
    for _ in range(20):
        await asyncio.sleep(0)
