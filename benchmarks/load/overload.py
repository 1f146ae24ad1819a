"""Three times as many requests as the server can answer, in an open loop."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.load.client import closed, opened, requests_of
from benchmarks.peers.models import DCGAN, RESNET, SIZE
from benchmarks.peers.servers import Running
from serving.bench.load import Open
from serving.bench.requests import Work
from serving.bench.samples import Samples, describe

FACTOR, IN_FLIGHT = 3, 800
PEAK_CONCURRENCY = 8
WORKS = {
    # 64 images: a request costs the server much more than the client, which has the same cores.
    "dcgan32 generate n=64": (DCGAN, Work("generate", {"n": ["64"], "seed": [str(seed) for seed in range(32)]})),
    "resnet9 translate": (RESNET, Work("translate", sizes=((SIZE, SIZE),))),
}


def measure_overload(server: Running, full: bool) -> list[dict[str, Any]]:
    """Measure the goodput at three times the peak rate against the peak, the time of refusals, and the recovery."""
    return [_measure(server.url, work, 30.0 if full else 5.0) for work in WORKS]


def _measure(url: str, name: str, seconds: float) -> dict[str, Any]:
    model, work = WORKS[name]
    requests = requests_of(url, model, work)
    peak = closed(url, requests, PEAK_CONCURRENCY, seconds, warm_up=seconds / 5).rate()
    if not peak:
        return {"work": name, "failed": f"no answer within {seconds:g} s"}
    with ThreadPoolExecutor(1) as pool:
        begin = time.monotonic()
        overloading = pool.submit(
            opened, url, requests, Open(FACTOR * peak, in_flight=IN_FLIGHT), seconds, warm_up=seconds / 2
        )
        # The rate falls at once to half the peak, while the server still works on what it accepted.
        time.sleep(begin + 1.5 * seconds - time.monotonic())
        after = opened(url, requests, Open(peak / 2, in_flight=IN_FLIGHT), seconds / 2, warm_up=0)
        overload = overloading.result()
    again = closed(url, requests, PEAK_CONCURRENCY, seconds, warm_up=seconds / 5).rate()
    goodput = overload.rate()
    return {
        "work": name,
        "peak_per_second": round(peak, 2),
        "peak_after_per_second": round(again, 2),
        "offered_per_second": round(FACTOR * peak, 2),
        "in_flight_limit": IN_FLIGHT,
        "goodput_per_second": round(goodput, 2),
        "goodput_over_peak": round(2 * goodput / (peak + again), 3),
        "succeeded_ms": describe(overload.latency[overload.ok]),
        "refused_ms": describe(overload.latency[overload.status == 503]),
        **_counts(overload),
        "half_the_peak_at_once_afterwards": {
            "share_succeeded": round(float(after.ok.mean()), 4),
            "seconds_until_last_refusal": round(float(after.start[~after.ok].max(initial=0.0)), 2),
        },
    }


def _counts(samples: Samples) -> dict[str, Any]:
    summary = samples.summary()
    return {key: summary[key] for key in ("requests", "not_sent", "statuses", "send_lag_ms")}
