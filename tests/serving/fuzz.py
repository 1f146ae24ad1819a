"""A fuzzer of the HTTP server: `python -m tests.serving.fuzz URL --seconds 600 --pid PID`.

Good requests are made from the metadata of the server's models, then mutated: bytes and JSON of bodies, image files,
headers, queries, paths and methods; bodies grow to 8 MiB. Everything follows from the seed. An answer is a failure if
its status is 5xx, but not for a deadline or overload, or if an error is not the server's JSON. With the id of the
server's process the memory of that process and its children is measured, which must not grow, and the CPU time of
refusals, which must not be far more than that of good requests.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

import psutil

from tests.serving.fuzz_requests import Request, good_requests, mutated
from tests.serving.raw_http import exchange

_WARM_UP = 0.2
"""The part of the time after which the memory is measured first."""
_MAX_FAILURES = 20
_MOST_TIMES = 150
"""A refusal may take so many times the CPU time of a good request. The largest JSON that is parsed takes about 60."""
_ROUNDS = 10
"""How often good requests are sent to measure their time."""
_SUSPECTS = 8
"""How many of the slowest refused requests are sent again."""


@dataclass
class Report:
    """What the fuzzer saw: the number of answers by status, failures as text, and the memory in MiB at two times.

    `slowest` are the requests that took longest to be refused, with seconds.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: list[tuple[float, Request]] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """The growth of the memory in MiB, 0 if it was not measured."""
        return self.memory[-1] - self.memory[0] if self.memory else 0.0


def fuzz(url: str, seconds: float, seed: int = 0, threads: int = 4, pid: int | None = None) -> Report:
    """Send mutated requests for `seconds`, from `threads` threads with seeds of their own."""
    requests, report = good_requests(url), Report()
    before = [_answer(url, request) for request in requests]
    assert all(status == 200 for status, _ in before), [
        (request.path, answer) for request, answer in zip(requests, before, strict=True) if answer[0] != 200
    ]
    start = time.monotonic()

    def work(number: int) -> None:
        random = Random(seed * 1000 + number)
        while time.monotonic() < start + seconds and len(report.failures) < _MAX_FAILURES:
            request = mutated(random.choice(requests), requests, random)
            sent = time.monotonic() - start
            reason = _failure(url, request, report)
            if reason is not None:
                times = f"sent after {sent:.1f} s, took {time.monotonic() - start - sent:.1f} s"
                report.failures.append(f"{reason} ({times}): {request}"[:2000])
            if number == 0 and pid is not None and not report.memory and time.monotonic() > start + seconds * _WARM_UP:
                report.memory.append(resident_mib(pid))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    if pid is not None:
        report.failures += _slow_refusals(url, requests, [request for _, request in report.slowest], pid)
    for request, answer in zip(requests, before, strict=True):
        if _answer(url, request) != answer:
            report.failures.append(f"another answer than before: {request}"[:2000])
    if pid is not None:
        report.memory.append(resident_mib(pid))
    return report


def resident_mib(pid: int) -> float:
    """Return the memory of a process and its children that is not shared, in MiB."""
    process = psutil.Process(pid)
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().uss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20


def _slow_refusals(url: str, good: list[Request], suspects: list[Request], pid: int) -> list[str]:
    """Send `suspects` again, one at a time, and return those that take far more of the server's CPU than good requests.

    CPU seconds do not depend on what else runs on the machine.
    """
    usual = _cpu_seconds(url, good * _ROUNDS, pid) / (len(good) * _ROUNDS)
    return [
        f"refused after {ratio:.0f} times the CPU time of a good request: {request}"[:2000]
        for request in suspects
        if (ratio := min(_cpu_seconds(url, [request], pid) for _ in range(3)) / usual) > _MOST_TIMES
    ]


def _cpu_seconds(url: str, requests: list[Request], pid: int) -> float:
    """Return the seconds of CPU that the process `pid` and its children take for the requests, to about 0.01 s."""
    before = _cpu_times(pid)
    for request in requests:
        _answer(url, request)
    return _cpu_times(pid) - before


def _cpu_times(pid: int) -> float:
    process = psutil.Process(pid)
    total = 0.0
    for one in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _answer(url: str, request: Request) -> tuple[int, bytes]:
    status, _, content = exchange(url, request.method, request.path, request.headers, request.body)
    return status, content


def _failure(url: str, request: Request, report: Report) -> str | None:
    """Send a request. Return why its answer is a failure, or None."""
    start = time.perf_counter()
    try:
        status, headers, content = exchange(url, request.method, request.path, request.headers, request.body)
    except Exception as error:
        return f"no answer ({type(error).__name__}: {error})"
    report.statuses[status] += 1
    if 400 <= status < 500:
        slowest = [*report.slowest, (time.perf_counter() - start, request)]
        report.slowest = sorted(slowest, key=lambda pair: pair[0])[-_SUSPECTS:]
    if status < 400 or request.method == "HEAD":
        return f"status {status}" if status >= 500 else None
    try:
        answer = json.loads(content)
        code = answer["code"]
        assert answer.keys() == {"error", "code"}
        assert headers["content-type"].startswith("application/json")
    except (ValueError, KeyError, TypeError, AssertionError):
        return f"status {status} without the JSON of an error: {content[:200]!r}"
    return f"status {status}: {answer}" if status >= 500 and code not in ("deadline", "overloaded") else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--pid", type=int)
    arguments = parser.parse_args()
    report = fuzz(**vars(arguments))
    print(json.dumps({"answers": dict(sorted(report.statuses.items())), "memory_mib": report.memory}))  # noqa: T201
    for failure in report.failures:
        print(failure)  # noqa: T201
    return 1 if report.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
