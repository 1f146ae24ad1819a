"""The live progress bar of a run in the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from trainer.progress_actor import Update


class ProgressBar:
    """Shows images seen and the time left, with images/s and losses below; events are printed above."""

    def __init__(self, total_images: int, console: Console) -> None:
        self._total = total_images
        self._progress = _Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            # By default speeds older than half a minute are dropped, but a step of large photographs takes longer.
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
        """Print the new events, and draw the newest figures."""
        for message in update.events:
            self._progress.console.print(message, markup=False, style="yellow")
        if update.figures:
            self._progress.figures = "  ".join(f"{name} {value:.3g}" for name, value in update.figures.items())
            self._progress.update(self._task, description="training", completed=min(update.seen, self._total))


class _Progress(Progress):
    """Rich's progress bars with the figures below, wrapped to the width of the terminal."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(self.figures, style="dim")
