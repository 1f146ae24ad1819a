"""The measured requests, and the figures that describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serving.bench.connection import NO_ANSWER

PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9}
FAILURE_TEXTS = 3
Figures = dict[str, float]


@dataclass(frozen=True)
class Samples:
    """The requests of one measurement, in the order of their answers.

    Attributes:
        start: float64 [n], seconds between the start of the measurement and the request's intended start.
        latency: float64 [n], seconds from the intended start to the end of the answer.
        lag: float64 [n], seconds from the intended start until the request was sent. A lag beyond about 1 ms shows
            that the client is too slow for this load.
        status: int64 [n], HTTP statuses; `NO_ANSWER` where there was no answer.
        early_ends: float64 [k], when the successful answers to requests of the warm-up were complete, in seconds after
            the start of the measurement. They count in the rate: the server worked on them while it was measured.
        seconds: the length of the measurement.
        not_sent: the number of requests that were not sent because too many were in flight, or because the client was
            too slow to send them before the end.
        failures: for each status that is no success, up to `FAILURE_TEXTS` different bodies or reasons.
    """

    start: NDArray[np.float64]
    latency: NDArray[np.float64]
    lag: NDArray[np.float64]
    status: NDArray[np.int64]
    early_ends: NDArray[np.float64]
    seconds: float
    not_sent: int
    failures: Mapping[int, tuple[str, ...]]

    @property
    def ok(self) -> NDArray[np.bool_]:
        """Which requests succeeded: bool [n]."""
        return (self.status >= 200) & (self.status < 300)

    @property
    def ends(self) -> NDArray[np.float64]:
        """When the answers were complete: float64 [n], seconds after the start of the measurement."""
        return self.start + self.latency

    def rate(self, first: float = 0.0, last: float | None = None) -> float:
        """Return the successful answers per second of those that ended between `first` and `last` (seconds)."""
        end = self.seconds if last is None else last
        ends = np.concatenate([self.early_ends, self.ends[self.ok]])
        return float(np.count_nonzero((ends >= first) & (ends <= end)) / (end - first))

    def summary(self) -> dict[str, Any]:
        """Return the figures as JSON values: rates, statuses, and latencies in milliseconds."""
        statuses = [int(status) for status in np.unique(self.status)]
        return {
            "seconds": round(self.seconds, 3),
            "requests": len(self.status),
            "succeeded": int(np.count_nonzero(self.ok)),
            "requests_per_second": round(self.rate(), 2),
            "not_sent": self.not_sent,
            "statuses": {_status_name(status): int(np.count_nonzero(self.status == status)) for status in statuses},
            "latency_ms": describe(self.latency[self.ok]),
            "latency_ms_by_status": {
                _status_name(status): describe(self.latency[self.status == status]) for status in statuses
            },
            "send_lag_ms": describe(self.lag),
            "failures": [
                {"status": _status_name(status), "texts": texts} for status, texts in sorted(self.failures.items())
            ],
        }


def describe(seconds: NDArray[np.float64]) -> Figures | None:
    """Return mean, percentiles and maximum of `seconds` in milliseconds, or None if there are none."""
    if not len(seconds):
        return None
    values = np.percentile(seconds, list(PERCENTILES.values()))
    figures = {"mean": seconds.mean(), **dict(zip(PERCENTILES, values, strict=True)), "max": seconds.max()}
    return {name: round(1000 * float(value), 3) for name, value in figures.items()}


def merge(parts: Sequence[Samples]) -> Samples:
    """Return the samples of several processes that measured at the same time."""
    ends = np.concatenate([part.ends for part in parts])
    order = np.argsort(ends, kind="stable")
    statuses = {status for part in parts for status in part.failures}
    failures = {
        status: tuple(dict.fromkeys(text for part in parts for text in part.failures.get(status, ())))[:FAILURE_TEXTS]
        for status in statuses
    }
    return Samples(
        start=np.concatenate([part.start for part in parts])[order],
        latency=np.concatenate([part.latency for part in parts])[order],
        lag=np.concatenate([part.lag for part in parts])[order],
        status=np.concatenate([part.status for part in parts])[order],
        early_ends=np.concatenate([part.early_ends for part in parts]),
        seconds=max(part.seconds for part in parts),
        not_sent=sum(part.not_sent for part in parts),
        failures=failures,
    )


def _status_name(status: int) -> str:
    return "no answer" if status == NO_ANSWER else str(status)
