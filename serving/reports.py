"""The numbers of the processes of a server on a cluster, as each of them reports them to the gateway."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.metrics import LIVING, Numbers
from serving.readings import Process, add

REPORT_SECONDS = 2.0
"""How often a process reports."""
_SILENT_SECONDS = 5 * REPORT_SECONDS
"""A process has died if it has not reported for so long."""


@dataclass(frozen=True)
class Report:
    """All numbers of a process of a node since its start, and the bytes of its memory.

    With `is_last` the process stops.
    """

    process: str
    node: str
    numbers: Numbers
    memory: int | None = None
    is_last: bool = False


class Reports:
    """The last report of each process. What those have counted that have stopped or died stays."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reports: dict[str, tuple[float, Report]] = {}
        self._stopped: Numbers = {}

    def take(self, report: Report) -> None:
        """Put a report in the place of the one before of the same process."""
        if report.is_last:
            self._reports.pop(report.process, None)
            add(self._stopped, {kind: numbers for kind, numbers in report.numbers.items() if kind != LIVING})
        else:
            self._reports[report.process] = self._clock(), report

    def processes(self) -> list[Process]:
        """Return the numbers of all processes at this moment."""
        since = self._clock() - _SILENT_SECONDS
        reported = [
            Process(report.process, report.node, report.numbers, is_alive=time >= since, memory=report.memory)
            for time, report in self._reports.values()
        ]
        return [Process("stopped", "", self._stopped, is_alive=False), *reported]
