"""The live progress bar of a run in the terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trainer.hooks.base import Update


class ProgressBar:
    """Images seen, images/s, losses and the time left; events are printed above it."""

    def __init__(self, total_images: int, console: Console) -> None:
        self._total = total_images
        self._told = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._progress.add_task("starting workers", total=total_images, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def show(self, update: Update) -> None:
        """Draw what the workers last reported."""
        for message in update.events[self._told :]:
            self._progress.console.print(message, markup=False, style="yellow")
        self._told = len(update.events)
        if update.metrics:
            figures = "  ".join(f"{name} {value:.3g}" for name, value in update.metrics.items())
            self._progress.update(
                self._task, description="training", completed=min(update.seen, self._total), figures=figures
            )
