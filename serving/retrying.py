"""Which requests are sent again, when and where to: functions of the time and of what has happened.

All that a zorse server is asked for is a pure function of its models, so any request may be sent twice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass

from serving.errors import BadRequestError

_MAX_ATTEMPTS = 100
_EJECTION_SECONDS = 5.0
"""How long an endpoint that could not be reached is the last choice."""
_RETRIED_STATUSES = {429, 502, 503, 504}
_STATUSES_OF_PROXIES = {500, 502, 503, 504}


@dataclass(frozen=True)
class RetryPolicy:
    """How often one request is sent, and how long the client waits in between.

    `attempts` is the most times that it is sent, 1 to 100. After attempt k the wait is a random part of
    `base_seconds * 2 ** (k - 1)`, and never more than a part of `max_seconds`. What the server asks for with
    `Retry-After` is added.

    Raises:
        BadRequestError: a number is out of its range.
    """

    attempts: int = 10
    base_seconds: float = 0.25
    max_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not 1 <= self.attempts <= _MAX_ATTEMPTS:
            raise BadRequestError(f"attempts is {self.attempts}: give 1 to {_MAX_ATTEMPTS}")
        if not (0 <= self.base_seconds < math.inf and 0 <= self.max_seconds < math.inf):
            raise BadRequestError("base_seconds and max_seconds are positive numbers of seconds")


DEFAULT_RETRY = RetryPolicy()
"""About 14 s in all, in which a server that has lost its front has it again."""
BRIEF = RetryPolicy(attempts=6)
"""About 4 s in all, for a person who waits and may have mistyped the address."""
ONCE = RetryPolicy(attempts=1)
"""Nothing is repeated."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt that may be repeated.

    `is_of_endpoint` says that another endpoint may do better at once. `is_gone` says that the endpoint could not be
    reached, or cut the connection. `retry_after` is the server's wish in seconds.
    """

    is_of_endpoint: bool = True
    is_gone: bool = False
    retry_after: float = 0.0


GONE = Failure(is_gone=True)
"""No connection, or one that was cut before the whole answer was there."""


def failure_of(status: int, retry_after: str | None, content_type: str) -> Failure | None:
    """Return what an answer with this status and these headers means, or None if it is not to be repeated.

    Repeated are 429, 502, 503 and 504 with a number of seconds: the server says that it will answer later. All errors
    of the server are JSON. Others are of a proxy in front of it, which got no answer: Ray Serve's own proxy answers 500
    or 503 with a text where a replica or its node dies.
    """
    text = (retry_after or "").strip()
    if status not in _RETRIED_STATUSES or not (text.isascii() and text.isdigit()):
        is_of_proxy = status in _STATUSES_OF_PROXIES and not content_type.startswith("application/json")
        return Failure() if is_of_proxy else None
    # The rate of a key is the key's at every endpoint.
    return Failure(is_of_endpoint=status != 429, retry_after=float(text))


def next_attempt(
    policy: RetryPolicy,
    attempt: int,
    failure: Failure,
    *,
    now: float,
    deadline: float,
    has_other: bool,
    draw: float,
) -> float | None:
    """Return the seconds to wait before the next attempt, or None to give up.

    `attempt` is the number of attempts so far, `has_other` says that some endpoint has not been asked yet, `draw` is a
    random number in [0, 1). The next attempt begins before `deadline`, or not at all.
    """
    if attempt >= policy.attempts:
        return None
    if has_other and failure.is_of_endpoint:
        wait = 0.0
    else:
        wait = failure.retry_after + draw * min(policy.max_seconds, policy.base_seconds * 2.0 ** (attempt - 1))
    return wait if now + wait < deadline else None


class Endpoints:
    """Whose turn it is among `count` endpoints. Those that could not be reached lately are the last choice.

    Threads may share it.
    """

    def __init__(self, count: int) -> None:
        self._turns = itertools.count()
        self._ejected_until = [-math.inf] * count

    def __len__(self) -> int:
        return len(self._ejected_until)

    def choose(self, now: float, tried: Collection[int] = ()) -> int:
        """Return the number of the next endpoint: one that is not in `tried` before one that is."""
        first = next(self._turns)
        turn = [(first + step) % len(self) for step in range(len(self))]
        # An ejection that has ended counts like none.
        return min(turn, key=lambda number: (number in tried, max(self._ejected_until[number], now)))

    def eject(self, number: int, now: float) -> None:
        """Note that an endpoint could not be reached."""
        self._ejected_until[number] = now + _EJECTION_SECONDS

    def admit(self, number: int) -> None:
        """Note that an endpoint has answered."""
        self._ejected_until[number] = -math.inf
