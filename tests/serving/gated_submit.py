"""A batcher's `submit` whose runs wait until a test lets them go."""

from __future__ import annotations

import asyncio
import threading

from serving.batching import Tensors
from tests.serving.fakes import FakeEngine


class Gate:
    """Holds runs until it is opened, and counts those that wait, their most, and those that were cancelled."""

    def __init__(self) -> None:
        self.opened, self.arrived, self.left = threading.Event(), threading.Semaphore(0), threading.Semaphore(0)
        self.waiting = self.most = self.cancelled = 0
        self.deadlines: list[float | None] = []

    async def submit(self, tensors: Tensors, deadline: float | None = None) -> Tensors:
        self.deadlines.append(deadline)
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        self.arrived.release()
        try:
            while not self.opened.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.waiting -= 1
            self.left.release()
        return FakeEngine().run(tensors)
