"""`metrics.jsonl`: one line of means every `run.log_images` images, and the live figures for the terminal."""

from __future__ import annotations

import json
import time

from trainer.hooks.base import Training


class MetricsLog:
    """Lines are kept and written whole, because object stores cannot append."""

    def start(self, training: Training) -> None:
        """Start the clock."""
        self._lines: list[str] = []
        self._start = self._last = time.monotonic()
        self._last_seen = training.seen

    def after_step(self, training: Training) -> None:
        """Report progress when the loop has new means."""
        if not training.metrics or not training.is_main:
            return
        now = time.monotonic()
        rate = (training.seen - self._last_seen) / max(now - self._last, 1e-9)
        self._last, self._last_seen = now, training.seen
        metrics = training.metrics | {"images/s": rate}
        line = {"images": training.seen, "seconds": round(now - self._start, 3), **metrics}
        self._lines.append(json.dumps(line) + "\n")
        training.storage.write("metrics.jsonl", "".join(self._lines).encode())
        training.reporter.progress(training.seen, metrics)
