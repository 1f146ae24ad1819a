"""The server's memory over many requests of mixed sizes."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.load.client import closed, requests_of, resident_mib
from benchmarks.peers.models import DCGAN, RESNET
from benchmarks.peers.servers import Running
from serving.bench.requests import Work

CONCURRENCY, PARTS = 8, 10


def measure_memory(server: Running, full: bool) -> list[dict[str, Any]]:
    """Measure the resident memory after every tenth of the requests: two thirds generate, one third translates."""
    total = 30_000 if full else 300
    draw = np.random.default_rng(0)
    counts = [str(count) for count in draw.integers(1, 17, 32)]
    sizes = [(int(height), int(width)) for height, width in draw.integers(16, 65, (40, 2))]
    generate = requests_of(server.url, DCGAN, Work("generate", {"n": counts, "seed": ["0", "1", "2"]}))
    translate = requests_of(server.url, RESNET, Work("translate", sizes=sizes))
    processes = server.processes()
    memory, failed, sent = [resident_mib(processes)], 0, 0
    for _ in range(PARTS):
        for requests, share in ((generate, 2 / 3), (translate, 1 / 3)):
            samples = closed(server.url, requests, CONCURRENCY, 600, requests=round(total * share / PARTS), warm_up=0)
            failed += int((~samples.ok).sum())
            sent += len(samples.status)
        memory.append(resident_mib(processes))
    return [
        {
            "requests": sent,
            "failed": failed,
            "mib_at_start": round(memory[0], 1),
            "mib_after_each_tenth": [round(value, 1) for value in memory[1:]],
            "growth_over_second_half_mib": round(memory[-1] - memory[PARTS // 2], 1),
        }
    ]
