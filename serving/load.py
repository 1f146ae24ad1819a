"""Measures the work of a replica for the choice of how many replicas there are."""

from __future__ import annotations

import time
from collections.abc import Callable

from serving.admission import Admission
from serving.scaling import Load


class LoadMeter:
    """Measures the load of a replica between one call of `sample` and the next: see `serving.scaling.Load`.

    `run_seconds` returns how long all runs so far took, and `batch_seconds` is how long a run of a useful batch takes.
    `clock` is in seconds, and `cpu_clock` is that of the computing time of the thread that calls. It is the one of the
    event loop: fast models run there, and requests are read and written there.
    """

    def __init__(
        self,
        admission: Admission,
        run_seconds: Callable[[], float],
        batch_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._admission, self._run_seconds, self._batch_seconds = admission, run_seconds, batch_seconds
        self._clock, self._cpu_clock = clock, cpu_clock
        self._last = self._now()

    def sample(self) -> Load:
        """Return the load since the last call.

        It is zero if there was nothing to run: Ray's own work in the process is no demand.
        """
        last, now = self._last, self._now()
        self._last = now
        began, asked_before, ran_before, computed_before = last
        ended, asked, ran, computed = now
        admission = self._admission
        if asked == asked_before and not admission.jobs:
            return Load(0.0, 0.0)
        # A long run counts when it has ended, as if all of it were in this time.
        seconds = max(ended - began, 1e-9)
        busy = min(1.0, max(ran - ran_before, computed - computed_before) / seconds)
        # More replicas do not make one request shorter, however much it asks for.
        return Load(busy, min(admission.jobs, admission.seconds / self._batch_seconds))

    def _now(self) -> tuple[float, int, float, float]:
        return self._clock(), self._admission.asked, self._run_seconds(), self._cpu_clock()
