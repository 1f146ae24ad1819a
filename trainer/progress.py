"""The live progress bar of a run in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from trainer.board import Update


class ProgressBar:
    """Images seen and the time left, and below them images/s and losses; events are printed above it."""

    def __init__(self, total_images: int, console: Console) -> None:
        self._total = total_images
        self._told = 0
        self._progress = _Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            # The default forgets a speed that is older than half a minute; a step of large photographs is.
            speed_estimate_period=3600,
        )
        self._task = self._progress.add_task("starting workers", total=total_images)

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
        if update.figures:
            self._progress.figures = "  ".join(f"{name} {value:.3g}" for name, value in update.figures.items())
            self._progress.update(self._task, description="training", completed=min(update.seen, self._total))


class _Progress(Progress):
    """Rich's bars with a paragraph of figures below them, however narrow the terminal is."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.figures, style="dim")
