"""Writes events about images that cannot be read."""

from __future__ import annotations

from typing import ClassVar

from trainer.hooks.base import Hook, Stage, Training


class Skipped(Hook):
    """Reports each unreadable image once, on each rank that tried to read it."""

    stage: ClassVar[Stage] = Stage.RECORD

    def start(self, training: Training) -> None:
        """Start at the first line of `dataset.skipped`."""
        self._reported = 0

    def after_step(self, training: Training) -> None:
        """Report the new lines."""
        lines = training.dataset.skipped
        for line in lines[self._reported :]:
            training.reporter.event(line)
        self._reported = len(lines)
