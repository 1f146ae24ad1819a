"""Shows how far a batch job is: a bar on a terminal, a line now and then elsewhere, as in the log of a Ray job."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from serving.batch.shard import Outcome

_LINE_SECONDS = 5.0


class Tally:
    """Counts the images, the bad inputs and the work of the outcomes so far."""

    def __init__(self, images: int, ready: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Count up to `images`, of which `ready` belong to shards that exist already."""
        self.total, self.done, self.errors, self.new, self.new_shards = images, ready, 0, 0, 0
        self._in_hand = 0
        self._are_workers_there = False
        self.stages: dict[str, float] = {}
        self._clock, self._start = clock, clock()
        self._first: tuple[float, int] | None = None

    def add(self, outcome: Outcome) -> None:
        """Count the images of one more shard."""
        record = outcome.record
        number = record.count + len(record.errors)
        self.done += number
        self.errors += len(record.errors)
        self._are_workers_there = True
        if outcome.is_new:
            self.new += number
            self.new_shards += 1
            self._note_first()
        for stage, seconds in outcome.seconds.items():
            self.stages[stage] = self.stages.get(stage, 0.0) + seconds

    def set_in_hand(self, images: int) -> None:
        """Set how many images are done of the shards that were not added yet."""
        self._in_hand = images
        if images:
            self._note_first()

    @property
    def shown(self) -> int:
        """The images that are done, with those of unfinished shards."""
        return self.done + self._in_hand

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return self._clock() - self._start

    @property
    def images_per_second(self) -> float:
        """The images made in a second, without the start of the workers: counted from the first ones on.

        As long as there are only those it is counted from the start on.
        """
        made = self.new + self._in_hand
        since, before = self._first or (0.0, 0)
        if made <= before:
            since, before = 0.0, 0
        return (made - before) / max(self.seconds - since, 1e-9)

    def text(self) -> str:
        """Return the state as one line."""
        parts = [f"{self.shown:,} of {self.total:,} images"]
        if self.new + self._in_hand:
            rest = timedelta(seconds=round((self.total - self.shown) / self.images_per_second))
            parts += [f"{self.images_per_second:,.4g} images/s", f"{rest} to go"]
        elif self.done < self.total:
            parts.append("checking" if self._are_workers_there else "waiting for workers")
        if self.errors:
            parts.append(f"{self.errors:,} bad inputs")
        busy = sum(self.stages.values())
        if busy > 0:
            shares = sorted(self.stages.items(), key=lambda entry: -entry[1])
            parts.append(", ".join(f"{stage} {100 * seconds / busy:.0f} %" for stage, seconds in shares))
        return " · ".join(parts)

    def _note_first(self) -> None:
        self._first = self._first or (self.seconds, self.new + self._in_hand)


class ProgressDisplay:
    """Shows a tally on `console`, or prints lines with `echo` where it is not a terminal."""

    def __init__(self, tally: Tally, console: Console, echo: Callable[[str], Any]) -> None:
        self._tally, self._echo = tally, echo
        self._is_terminal, self._next_line = console.is_terminal, 0.0
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(tally.text(), total=tally.total, completed=tally.done)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Show the present state. Lines are at least five seconds apart."""
        if self._is_terminal:
            self._bar.update(self._task, completed=self._tally.shown, description=self._tally.text())
        elif self._tally.seconds >= self._next_line:
            self._next_line = self._tally.seconds + _LINE_SECONDS
            self._echo(self._tally.text())
