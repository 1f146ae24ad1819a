"""Names the images that could not be read and were left out."""

from __future__ import annotations

from trainer.hooks.base import Training


class Skipped:
    """One event for each, once for each rank that met it."""

    def start(self, training: Training) -> None:
        """Nothing was met yet."""
        self._told = 0

    def after_step(self, training: Training) -> None:
        """Tell what is new."""
        lines = training.source.skipped
        for line in lines[self._told :]:
            training.reporter.event(line)
        self._told = len(lines)

    def finish(self, training: Training) -> None:
        """All is told."""
