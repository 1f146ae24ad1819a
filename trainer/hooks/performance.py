"""Measures images/s, the shares of time spent waiting for images and in hooks, and peak memory."""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from trainer.hooks.base import Hook, Stage, TimeSpent, Training


class Performance(Hook):
    """Measures each interval of `run.log_images` images, and reports the means of the whole run at its end."""

    stage: ClassVar[Stage] = Stage.MEASURE

    def start(self, training: Training) -> None:
        """Start the clocks."""
        self._first = self._last = _Mark.now(training)

    def after_step(self, training: Training) -> None:
        """Measure when the loop logs figures."""
        if not training.due(training.config.run.log_images):
            return
        mark = _Mark.now(training)
        training.performance = mark.since(self._last) | {"memory GiB": peak_memory(training.device) / 2**30}
        self._last = mark

    def finish(self, training: Training) -> None:
        """Report the run's speed, and the range over the ranks of the shares of waiting and of hooks."""
        mark = _Mark.now(training)
        if mark.seen == self._first.seen:
            return
        shares = training.ranks.gather(mark.since(self._first))
        if training.is_main:
            waits, hooks = (_percent([rank[name] for rank in shares]) for name in ("data wait", "hooks"))
            training.reporter.event(
                f"speed: {shares[0]['images/s']:.3g} images/s with {len(shares)} workers; "
                f"data wait {waits}, hooks {hooks} of the time"
            )


@dataclass(frozen=True)
class _Mark:
    """A moment of a run: the clock in seconds, the images seen, and the time spent outside steps."""

    clock: float
    seen: int
    spent: TimeSpent

    @classmethod
    def now(cls, training: Training) -> _Mark:
        """Return the present moment."""
        return cls(time.monotonic(), training.seen, replace(training.time_spent))

    def since(self, earlier: _Mark) -> dict[str, float]:
        """Return images/s, and the shares of data wait and hooks, from `earlier` to this moment."""
        elapsed = max(self.clock - earlier.clock, 1e-9)
        return {
            "images/s": (self.seen - earlier.seen) / elapsed,
            "data wait": (self.spent.waiting - earlier.spent.waiting) / elapsed,
            "hooks": (self.spent.hooks - earlier.spent.hooks) / elapsed,
        }


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes: of the GPU if it uses one, else of the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _percent(values: list[float]) -> str:
    low, high = f"{min(values):.1%}", f"{max(values):.1%}"
    return low if low == high else f"{low}–{high}"
