"""`metrics.jsonl`: one line of means every `run.log_images` images, and the live figures for the terminal."""

from __future__ import annotations

import json
import resource
import sys
import time

import torch

from trainer.hooks.base import Training

FILE = "metrics.jsonl"


class MetricsLog:
    """Lines are kept and written whole, because object stores cannot append."""

    def start(self, training: Training) -> None:
        """Start the clock; of a resumed run's lines those stay that come before the checkpoint."""
        self._lines = _lines_until(training) if training.is_main else []
        seconds = json.loads(self._lines[-1])["seconds"] if self._lines else 0.0
        self._last = time.monotonic()
        self._start = self._last - seconds
        self._last_seen, self._last_waited = training.seen, training.spent.waiting

    def after_step(self, training: Training) -> None:
        """Report progress when the loop has new means, to which this rank's speed and memory are added."""
        if not training.metrics or not training.is_main:
            return
        now = time.monotonic()
        elapsed = max(now - self._last, 1e-9)
        speed = {
            "images/s": (training.seen - self._last_seen) / elapsed,
            "data wait": (training.spent.waiting - self._last_waited) / elapsed,
            "memory GiB": peak_memory(training.device) / 2**30,
        }
        self._last, self._last_seen, self._last_waited = now, training.seen, training.spent.waiting
        training.metrics |= speed
        line = {"images": training.seen, "seconds": round(now - self._start, 3), **training.metrics}
        self._lines.append(json.dumps(line) + "\n")
        training.files.write(FILE, "".join(self._lines).encode())
        training.reporter.progress(training.seen, training.metrics)

    def finish(self, training: Training) -> None:
        """The last line is written."""


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held: of the GPU's memory where it has one, else of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _lines_until(training: Training) -> list[str]:
    if not training.storage.exists(FILE):
        return []
    lines = training.storage.read(FILE).decode().splitlines(keepends=True)
    return [line for line in lines if json.loads(line)["images"] <= training.seen]
