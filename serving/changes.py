"""Changes of the running models that clients ask for, on their way from the gateway to the process of the server."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from typing import Literal, NamedTuple, Protocol

from serving.errors import DeadlineError, OverloadedError, ServingError, UnavailableError, UnsupportedError
from zorse_common.errors import printable

Action = Literal["load", "unload"]
_MOST = 64
"""The most changes that wait. They are made one after another."""
_FIRST_SECONDS = 15.0
"""How long a gateway that has just started waits for the process of the server to ask it for changes."""
_STOPS = "the server stops, and loads and unloads no models"
_LONGEST_SECONDS = 660.0
"""How long a client waits for a change: longer than a version may take to start."""


class Change(NamedTuple):
    """A model that is to be loaded or unloaded. `key` names the request."""

    key: str
    action: Action
    model: str


class Ask(Protocol):
    """Asks for a change of the running models."""

    async def __call__(self, action: Action, model: str) -> None:
        """Return once the change is made.

        Raises:
            ServingError: it is not made, or not yet.
        """


async def no_changes(action: Action, model: str) -> None:
    """Refuse a change: see `Ask`. A server without a process that could change what runs is one on a cluster."""
    raise UnsupportedError(
        "no process of this server loads models: it serves those of its configuration until that is deployed again"
    )


class Changes:
    """The changes that clients of this process have asked for and that the process of the server has not made yet.

    The process of the server takes one after another, and answers each. All methods are called in one event loop.
    """

    def __init__(self, longest_s: float = _LONGEST_SECONDS, first_s: float = _FIRST_SECONDS) -> None:
        self._waiting: asyncio.Queue[Change | None] = asyncio.Queue(_MOST)
        self._asked: dict[str, asyncio.Future[ServingError | None]] = {}
        self._taken: Change | None = None
        self._longest_s, self._first_s = longest_s, first_s
        self._is_attended, self._is_closed = asyncio.Event(), False

    async def ask(self, action: Action, model: str) -> None:
        """See `Ask`. A change that nobody waits for any longer is made nevertheless.

        Raises:
            UnsupportedError: no process of the server takes changes.
            OverloadedError: too many changes wait.
            UnavailableError: the server stops.
            DeadlineError: the change is not made in time.
            ServingError: the error with which the process of the server answers.
        """
        if self._is_closed:
            raise UnavailableError(_STOPS)
        try:
            async with asyncio.timeout(self._first_s):
                await self._is_attended.wait()
        except TimeoutError:
            await no_changes(action, model)
        change = Change(secrets.token_hex(8), action, model)
        try:
            self._waiting.put_nowait(change)
        except asyncio.QueueFull:
            raise OverloadedError(f"{_MOST} models wait to be loaded or unloaded: try again in 5 s", 5) from None
        answer = self._asked[change.key] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._longest_s):
                error = await answer
        except TimeoutError:
            raise DeadlineError(
                f"the {action} of {printable(model)} has not ended within {self._longest_s:.0f} s, and goes on"
            ) from None
        finally:
            del self._asked[change.key]
        if error is not None:
            raise error

    async def take(self, seconds: float) -> Change | None:
        """Return the next change, or None if there is none within `seconds`.

        It is the same one until it is answered: it may be lost on its way.
        """
        self._is_attended.set()
        if self._taken is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    self._taken = await self._waiting.get()
        return self._taken

    def answer(self, key: str, error: ServingError | None) -> None:
        """Answer the request `key`: its change is made, or failed with `error`."""
        if self._taken is not None and self._taken.key == key:
            self._taken = None
        asked = self._asked.get(key)
        if asked is not None and not asked.done():
            asked.set_result(error)

    def close(self) -> None:
        """Refuse what waits and what comes, and end a `take` that waits."""
        self._is_closed = True
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put_nowait(None)
        for key in self._asked:
            self.answer(key, UnavailableError(_STOPS))
