"""Sends the loads of the checks, and reads the server's own numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import httpx
import psutil

from serving.bench.load import Closed, Load, Open
from serving.bench.processes import measure
from serving.bench.requests import Work, prepare_requests, split_target
from serving.bench.samples import Samples
from serving.client import Client


def requests_of(url: str, model: str, work: Work) -> list[bytes]:
    """Return the requests of `work`, whole and as bytes."""
    with Client(url) as client:
        return prepare_requests(split_target(url), model, client.metadata(model), work, None)


def closed(url: str, prepared: Sequence[bytes], concurrency: int, seconds: float, **load: Any) -> Samples:
    """Send the `prepared` requests in turn in a closed loop."""
    return measure(split_target(url), prepared, Load(Closed(concurrency), seconds, **load))


def opened(url: str, prepared: Sequence[bytes], loop: Open, seconds: float, **load: Any) -> Samples:
    """Send the `prepared` requests in turn in an open loop."""
    return measure(split_target(url), prepared, Load(loop, seconds, **load))


def metric(url: str, name: str, model: str) -> float:
    """Return the sum of the rows of a metric of one model."""
    text = httpx.get(f"{url}/metrics", timeout=30, trust_env=False).raise_for_status().text
    pattern = rf'^{name}(?:_total)?\{{[^}}]*model="{re.escape(model)}"[^}}]*\}} (\S+)$'
    return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))


def resident_mib(processes: Sequence[psutil.Process]) -> float:
    """Return the resident memory of the processes that live, in MiB. Shared pages count once for each process."""
    total = 0
    for process in processes:
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 2**20
