"""What the two clients share: their connections, and the attempts of one request."""

from __future__ import annotations

import asyncio
import math
import os
import random
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import httpx

from serving.client_calls import Answer, Call
from serving.errors import BadRequestError, DeadlineError, ServingError, UnreachableError
from serving.loopback import is_loopback
from serving.retrying import GONE, Endpoints, Failure, RetryPolicy, failure_of, next_attempt
from zorse_common.errors import one_line

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
_PROXIES = frozenset({"ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"})
_CERTIFICATES = frozenset({"SSL_CERT_FILE", "SSL_CERT_DIR"})
_CONNECT_SECONDS = 5.0
"""An endpoint that does not take a connection within this time is out of reach."""
_LIMITS = httpx.Limits(max_connections=1000, max_keepalive_connections=100)
Outcome = Answer | httpx.RequestError | TimeoutError


@dataclass(frozen=True)
class Timer:
    """The time in seconds, the way to wait, and random numbers in [0, 1)."""

    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Any] = time.sleep
    draw: Callable[[], float] = random.random


TIMER = Timer()
ASYNC_TIMER = Timer(sleep=asyncio.sleep)


class Connections(Generic[Http]):
    """The connections to one or several endpoints, which are kept open from one request to the next.

    Raises:
        BadRequestError: a URL, the timeout, or a setting of the environment cannot be used.
    """

    def __init__(
        self,
        kind: type[Http],
        urls: str | Sequence[str],
        api_key: str | None,
        timeout: float,
        retry: RetryPolicy,
        transport: Any,
        timer: Timer,
    ) -> None:
        if not 0 < timeout < math.inf:
            raise BadRequestError(f"timeout is {timeout}: give a positive number of seconds")
        addresses = [urls] if isinstance(urls, str) else list(urls)
        if not addresses:
            raise BadRequestError("there is no URL of a server")
        self.http: list[Http] = [_open(kind, url, api_key, transport) for url in addresses]
        self.endpoints = Endpoints(len(addresses))
        self.timeout, self.retry, self.timer = timeout, retry, timer

    def begin(self, call: Call[T], retry: RetryPolicy | None = None) -> Attempts[T, Http]:
        """Return the attempts of a request that begins now."""
        return Attempts(self, call, retry or self.retry)

    def each_once(self) -> RetryPolicy:
        """Return the policy of a request that goes to each endpoint at most once, without waits."""
        return RetryPolicy(len(self.http))

    def unreachable(self, number: int, error: Exception) -> UnreachableError:
        """Return the error of an endpoint that does not answer, with a hint at the environment if that may be why."""
        settings = _PROXIES | _CERTIFICATES if _is_of_certificates(error) else _PROXIES
        hint = _settings_hint(settings) if self.http[number].trust_env else ""
        return UnreachableError(f"{self.http[number].base_url} does not answer: {error}{hint}")


class Attempts(Generic[T, Http]):
    """The attempts of one request: where and how the next one is sent, and whether there is a next one."""

    def __init__(self, connections: Connections[Http], call: Call[T], retry: RetryPolicy) -> None:
        self._connections: Connections[Http] = connections
        self._call, self._retry = call, retry
        self.deadline = connections.timer.clock() + connections.timeout
        self._tried: list[int] = []
        self._answer: Answer | None = None

    def build(self) -> tuple[Http, httpx.Request]:
        """Return the client and the request of the next attempt. The server gets what is left of the time."""
        now = self._connections.timer.clock()
        self._tried.append(self._connections.endpoints.choose(now, self._tried))
        http, call, seconds = self._connections.http[self._tried[-1]], self._call, self.seconds_left(now)
        headers = {**call.headers, "X-Request-Timeout": f"{seconds:.3f}"}
        timeout = httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))
        return http, http.build_request(call.method, call.path, headers=headers, timeout=timeout, **call.options)

    def seconds_left(self, now: float) -> float:
        """Return the seconds until the deadline: at least a millisecond, since a request needs a time."""
        return max(self.deadline - now, 0.001)

    def wait_after(self, outcome: Outcome) -> float | None:
        """Return the seconds to wait before the next attempt, or None if `outcome` is the answer, which `value` reads.

        Raises:
            ServingError: the request has failed.
        """
        connections, number = self._connections, self._tried[-1]
        now, failure = connections.timer.clock(), _failure(outcome)
        if failure is not None and failure.is_gone:
            connections.endpoints.eject(number, now)
        elif isinstance(outcome, Answer):
            connections.endpoints.admit(number)
        if isinstance(outcome, Answer):
            self._answer = outcome
        if failure is not None:
            has_other = len(set(self._tried)) < len(connections.endpoints)
            wait = next_attempt(
                self._retry,
                len(self._tried),
                failure,
                now=now,
                deadline=self.deadline,
                has_other=has_other,
                draw=connections.timer.draw(),
            )
            if wait is not None:
                return wait
        if not isinstance(outcome, Answer):
            raise self._error(outcome) from outcome
        return None

    def value(self) -> T:
        """Return the value of the answer. Raises the `ServingError` that it stands for."""
        assert self._answer is not None, "there is no answer yet"
        return self._call.value(self._answer, str(self._connections.http[self._tried[-1]].base_url))

    def _error(self, error: httpx.RequestError | TimeoutError) -> ServingError:
        number = self._tried[-1]
        if _is_late(error):
            seconds = self._connections.timeout
            return DeadlineError(f"{self._connections.http[number].base_url} has not answered within {seconds:g} s")
        return self._connections.unreachable(number, error)


def _failure(outcome: Outcome) -> Failure | None:
    """Return what is to be known of a failed attempt that may be repeated, or None for all else."""
    if isinstance(outcome, Answer):
        headers = outcome.headers
        return failure_of(outcome.status, headers.get("retry-after"), headers.get("content-type", ""))
    # A certificate that is not accepted stays so.
    if isinstance(outcome, httpx.ConnectError) and _is_of_certificates(outcome):
        return None
    passing = httpx.NetworkError | httpx.ConnectTimeout | httpx.RemoteProtocolError
    return GONE if isinstance(outcome, passing) else None


def _is_late(error: Exception) -> bool:
    """Return whether the time of a request is over, which that for a connection is not."""
    return isinstance(error, TimeoutError | httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)


def _open(kind: type[Http], url: str, api_key: str | None, transport: Any) -> Http:
    if not url.lower().startswith(("http://", "https://")):
        raise BadRequestError(f"{url} is not a server's URL: write http://{url.rpartition('://')[2]}")
    headers = {b"X-API-Key": api_key.encode()} if api_key else {}
    try:
        # A loopback address needs neither a proxy nor certificates: the environment is ignored.
        trusted = not is_loopback(urlsplit(url).hostname or "")
        return kind(base_url=url, headers=headers, transport=transport, trust_env=trusted, limits=_LIMITS)
    except httpx.InvalidURL as error:
        raise BadRequestError(f"{url} is not a URL: {error}{_settings_hint(_PROXIES)}") from error
    except (OSError, ValueError, ImportError) as error:  # of settings in the environment
        raise BadRequestError(
            f"no connection to {url} can be made ({one_line(error)}){_settings_hint(_PROXIES | _CERTIFICATES)}"
        ) from error


def _is_of_certificates(error: BaseException | None) -> bool:
    """Return whether an error of TLS is `error` or one of its causes."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    return error is not None


def _settings_hint(settings: frozenset[str]) -> str:
    """Return a hint with those of the environment variables `settings` that are set, or "" if none is."""
    names = [name for name in os.environ if name.upper() in settings]
    return f"; check {', '.join(sorted(names))} of the environment" if names else ""
