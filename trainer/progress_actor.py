"""The Ray actor through which the workers of a run and its driver exchange messages.

This module imports no torch: the actor is a separate process, which should start fast and stay small.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import IntEnum

from zorse_common.errors import ZorseError


class RunAction(IntEnum):
    """What happens to a run after a step. Of the actions that the ranks request, the highest is taken."""

    CONTINUE = 0
    PREEMPT = 1
    ROLL_BACK = 2
    STOP = 3


@dataclass(frozen=True)
class Update:
    """The progress of a run.

    Attributes:
        seen: the number of images that are done.
        figures: the newest figures by name; None before the first ones.
        events: one line for each event since the update before.
    """

    seen: int = 0
    figures: dict[str, float] | None = None
    events: tuple[str, ...] = ()


class ProgressActor:
    """Holds the workers' reports for the driver, and the driver's request to stop for the workers."""

    def __init__(self) -> None:
        self._update = Update()
        self._stopping = False
        self._failure: ZorseError | None = None
        self._action: RunAction | None = None
        self._stop_reason = ""
        self._last_call = time.monotonic()

    def progress(self, seen: int, figures: dict[str, float]) -> None:
        """Store a worker's report that `seen` images are done, with the newest figures."""
        self._update = Update(seen, figures, self._update.events)

    def event(self, message: str) -> None:
        """Store one line that a user should read."""
        self._update = replace(self._update, events=(*self._update.events, message))

    def take_update(self) -> Update:
        """Return the progress of the run, with the events since the last call."""
        update = self._update
        self._update = replace(update, events=())
        return update

    def stop(self) -> None:
        """Store the driver's request that the workers stop."""
        self._stopping = True

    def stopping(self) -> bool:
        """Return whether the workers should stop. A worker calls this method twice a second."""
        self._last_call = time.monotonic()
        return self._stopping

    def silence(self) -> float:
        """Return the seconds since a worker last called `stopping`."""
        return time.monotonic() - self._last_call

    def fail(self, failure: ZorseError) -> None:
        """Store an error that ends the run; the first one counts."""
        self._failure = self._failure or failure

    def failure(self) -> ZorseError | None:
        """Return the error that ends the run, if there is one."""
        return self._failure

    def set_stop_reason(self, reason: str) -> None:
        """Store why the run stops before its end."""
        self._stop_reason = reason

    def stop_reason(self) -> str:
        """Return why the run stops before its end."""
        return self._stop_reason

    def end(self, action: RunAction) -> None:
        """Store the action with which the workers ended."""
        self._action = action

    def action(self) -> RunAction | None:
        """Return the action with which the workers ended."""
        return self._action
