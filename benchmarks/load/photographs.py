"""Photographs of many sizes against photographs of one size."""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np

from benchmarks.load.client import closed, requests_of
from benchmarks.peers.models import RESNET
from benchmarks.peers.servers import Running
from serving.bench.requests import Work

CONCURRENCY, SIZES, ROUNDS = 16, 40, 3


def measure_photographs(server: Running, full: bool) -> list[dict[str, Any]]:
    """Compare the throughput of 40 sizes with that of one size of the same mean number of pixels, in turn."""
    seconds, rounds = (40.0, ROUNDS) if full else (6.0, 1)
    draw = np.random.default_rng(0)
    sizes = [(int(height), int(width)) for height, width in draw.integers(96, 161, (SIZES, 2))]
    side = 16 * round(math.sqrt(statistics.mean(height * width for height, width in sizes)) / 16)  # needs no padding
    works = {"mixed": Work("translate", sizes=sizes), "one": Work("translate", sizes=((side, side),))}
    requests = {name: requests_of(server.url, RESNET, work) for name, work in works.items()}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, prepared in requests.items():
            rates[name].append(closed(server.url, prepared, CONCURRENCY, seconds, warm_up=4.0).rate())
    mixed, one = (statistics.median(rates[name]) for name in ("mixed", "one"))
    return [
        {
            "sizes": SIZES,
            "one_size": [side, side],
            "concurrency": CONCURRENCY,
            "mixed_per_second": round(mixed, 3),
            "one_size_per_second": round(one, 3),
            "mixed_over_one_size": round(mixed / one, 3),
        }
    ]
