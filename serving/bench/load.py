"""What load is put on a server: how many requests, when, and for how long."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from serving.errors import BenchError

Arrivals = Literal["poisson", "uniform"]


@dataclass(frozen=True)
class Closed:
    """A closed loop: each of `concurrency` connections sends its next request when the last one is answered."""

    concurrency: int

    @property
    def connections(self) -> int:
        """The most connections at a time."""
        return self.concurrency

    def share(self, processes: int, number: int) -> Closed:
        """Return the part of process `number` of `processes`."""
        return Closed(len(range(number, self.concurrency, processes)))


@dataclass(frozen=True)
class Open:
    """An open loop: requests start at times that do not depend on the answers.

    Attributes:
        rate: requests per second.
        arrivals: "poisson" (independent arrivals) or "uniform" (equal gaps).
        in_flight: the most requests in flight. A request that would exceed it is not sent, but counted.
        phase: when uniform arrivals start, as a part of one gap.
    """

    rate: float
    arrivals: Arrivals = "poisson"
    in_flight: int = 1000
    phase: float = 0.0

    @property
    def connections(self) -> int:
        """The most connections at a time."""
        return self.in_flight

    def share(self, processes: int, number: int) -> Open:
        """Return the part of process `number` of `processes`. The parts of a Poisson process are Poisson processes."""
        in_flight = len(range(number, self.in_flight, processes))
        return Open(self.rate / processes, self.arrivals, in_flight, number / processes)

    def times(self, seed: int) -> Iterator[float]:
        """Yield the seconds after the start at which requests start, without end."""
        draw = random.Random(seed)
        time = self.phase / self.rate
        while True:
            yield time
            time += draw.expovariate(self.rate) if self.arrivals == "poisson" else 1 / self.rate


@dataclass(frozen=True)
class Load:
    """The load of one measurement.

    Attributes:
        loop: a closed or an open loop.
        duration: the seconds that are measured.
        warm_up: the seconds of the same load before, whose requests do not count.
        requests: the most requests that are measured; None for no limit.
        timeout: after how many seconds a request without an answer is given up.
        processes: how many processes of this machine send the load; each has its part of it.
        seed: the seed of arrivals.
    """

    loop: Closed | Open
    duration: float = 10.0
    warm_up: float = 1.0
    requests: int | None = None
    timeout: float = 60.0
    processes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check that every process has a part.

        Raises:
            BenchError: there are more processes than connections or requests.
        """
        least = min(self.loop.connections, self.requests or self.loop.connections)
        if self.processes > least:
            raise BenchError(f"{self.processes} processes cannot share {least} connections or requests: use fewer")

    def share(self, number: int) -> Load:
        """Return the part of process `number`."""
        requests = None if self.requests is None else len(range(number, self.requests, self.processes))
        loop = self.loop.share(self.processes, number)
        return Load(loop, self.duration, self.warm_up, requests, self.timeout, 1, self.seed + number)
