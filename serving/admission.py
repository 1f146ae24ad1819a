"""Admission: what a process works on at one time is bounded, and what does not fit is refused at once."""

from __future__ import annotations

import math
from typing import Self

from serving.config import Capacity
from serving.errors import OverloadedError


class Admission:
    """Counts the work in progress in requests and bytes, and, once a request was read, in images, pixels and seconds.

    A request that alone exceeds a limit is admitted when nothing else of that kind is in progress: limits of single
    requests are checked elsewhere.
    """

    def __init__(self, capacity: Capacity | None = None) -> None:
        self._capacity = capacity or Capacity()
        self.requests = 0
        self.bytes = 0
        self.images = 0
        self.pixels = 0
        self.seconds = 0.0
        self.jobs = 0
        """The requests whose images, pixels and seconds are counted."""
        self.asked = 0
        """How often work was asked for so far, whether it was admitted or not."""

    def check(self, nbytes: int) -> None:
        """Refuse a request before any of its body is read; its headers state `nbytes`. Nothing is counted.

        Raises:
            OverloadedError: the process has as many requests, bytes or seconds of work as it may.
        """
        limits = self._capacity
        self._check("requests", self.requests, 1, limits.requests)
        self._check("bytes", self.bytes, nbytes, limits.bytes)
        self._check("seconds", self.seconds, 0, limits.seconds)

    def content(self) -> Content:
        """Return the context in which the bytes of one request and of its answer are counted."""
        return Content(self)

    def check_bytes(self, in_progress: int, added: int) -> None:
        """Raise OverloadedError if `added` bytes are too many beside those `in_progress`."""
        self._check("bytes", in_progress, added, self._capacity.bytes)

    def request(self) -> _Count:
        """Return the context in which a request whose body has arrived is counted.

        Raises:
            OverloadedError: the process has as many requests as it may.
        """
        self._check("requests", self.requests, 1, self._capacity.requests)
        return _Count(self, requests=1)

    def work(self, images: int, pixels: int, seconds: float, remaining: float = math.inf) -> _Count:
        """Return the context in which the work of a request is counted.

        The work is in images, pixels of sources and results, and engine seconds. `remaining` is the number of seconds
        until the request's deadline.

        Raises:
            OverloadedError: the work does not fit, or the work before it takes longer than `remaining`.
        """
        limits = self._capacity
        self.asked += 1
        self._check("images", self.images, images, limits.images)
        self._check("pixels", self.pixels, pixels, limits.pixels)
        self._check("seconds", self.seconds, seconds, min(limits.seconds, remaining))
        return _Count(self, jobs=1, images=images, pixels=pixels, seconds=seconds)

    def _check(self, unit: str, in_progress: float, added: float, limit: float) -> None:
        if not in_progress or in_progress + added <= limit:
            return
        # Once `limit` seconds or fewer are left, a request fits again; the work in progress frees the rest on its way.
        wait = self.seconds + added - limit if unit == "seconds" else self.seconds / 2
        retry_after = max(1, math.ceil(wait))
        raise OverloadedError(
            f"the server is busy with {in_progress:.4g} {unit} and takes {limit:.4g}: try again in {retry_after} s",
            retry_after,
        )


class _Count:
    """Adds numbers to those in progress while the context lasts. A generator's context would take twice as long."""

    __slots__ = ("_admission", "_images", "_jobs", "_pixels", "_requests", "_seconds")

    def __init__(
        self,
        admission: Admission,
        requests: int = 0,
        jobs: int = 0,
        images: int = 0,
        pixels: int = 0,
        seconds: float = 0.0,
    ) -> None:
        self._admission = admission
        self._requests, self._jobs = requests, jobs
        self._images, self._pixels, self._seconds = images, pixels, seconds

    def __enter__(self) -> None:
        admission = self._admission
        admission.requests += self._requests
        admission.jobs += self._jobs
        admission.images += self._images
        admission.pixels += self._pixels
        admission.seconds += self._seconds

    def __exit__(self, *_: object) -> None:
        admission = self._admission
        admission.requests -= self._requests
        admission.jobs -= self._jobs
        admission.images -= self._images
        admission.pixels -= self._pixels
        # Sums of fractions would otherwise leave a rest for ever.
        admission.seconds = admission.seconds - self._seconds if admission.images else 0.0


class Content:
    """The bytes of one request and of its answer, which count as in progress while the context lasts.

    What a client only states is not counted, so that a slow sender takes no room.
    """

    __slots__ = ("_admission", "_bytes")

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._admission.bytes -= self._bytes

    def receive(self, nbytes: int) -> None:
        """Count bytes that have arrived.

        Raises:
            OverloadedError: with them the process has more than it may.
        """
        self._admission.check_bytes(self._admission.bytes - self._bytes, self._bytes + nbytes)
        self.keep(nbytes)

    def keep(self, nbytes: int) -> None:
        """Count bytes of an answer, which is sent although there may be too many."""
        self._admission.bytes += nbytes
        self._bytes += nbytes
