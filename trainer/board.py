"""What the workers of a run report, and the actor that holds it between them and the driver.

No torch here: the actor is a process of its own, which should start fast and stay small.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import IntEnum

from zorse_common.errors import ZorseError


class RunAction(IntEnum):
    """What happens to a run after a step; of the actions that the ranks request, the highest is taken."""

    CONTINUE = 0
    PREEMPT = 1
    ROLL_BACK = 2
    STOP = 3


@dataclass(frozen=True)
class Update:
    """The last report of the workers: images seen, the newest figures, and all events so far."""

    seen: int = 0
    figures: dict[str, float] | None = None
    events: tuple[str, ...] = ()


class Board:
    """The actor between the driver and the workers: the workers' reports, and what the driver asks of them."""

    def __init__(self) -> None:
        self._update = Update()
        self._stopping = False
        self._failure: ZorseError | None = None
        self._action: RunAction | None = None
        self._last_call = time.monotonic()

    def progress(self, seen: int, figures: dict[str, float]) -> None:
        """Take a worker's report that `seen` images are done, with the newest figures."""
        self._update = Update(seen, figures, self._update.events)

    def event(self, message: str) -> None:
        """Take one line that a user should read."""
        self._update = Update(self._update.seen, self._update.figures, (*self._update.events, message))

    def update(self) -> Update:
        """Return the last report."""
        return self._update

    def stop(self) -> None:
        """Take the driver's request that the workers stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Return whether the workers should stop; workers ask this twice a second."""
        self._last_call = time.monotonic()
        return self._stopping

    def silence(self) -> float:
        """Return the seconds since a worker last called `stopping`."""
        return time.monotonic() - self._last_call

    def fail(self, failure: ZorseError) -> None:
        """Take an error that ends the run; the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> ZorseError | None:
        """Return the error that ends the run, if there is one."""
        return self._failure

    def end(self, action: RunAction) -> None:
        """Take the action with which the workers ended."""
        self._action = action

    def action(self) -> RunAction | None:
        """Return the action with which the workers ended."""
        return self._action
