"""The fuzzer against a server in this process."""

from __future__ import annotations

import os
from random import Random

from tests.serving.fuzz import fuzz
from tests.serving.fuzz_requests import good_requests, mutated
from tests.serving.live import live_server
from tests.serving.tiny import conditional_manifest, generator_manifest, inverter_manifest

MANIFESTS = [generator_manifest(), inverter_manifest(), conditional_manifest()]


def test_mutated_requests_never_crash_the_server() -> None:
    with live_server(manifests=MANIFESTS) as url:
        report = fuzz(url, seconds=5, pid=os.getpid())
    assert not report.failures, "\n".join(report.failures)
    assert sum(report.statuses.values()) > 100
    assert {200, 400, 404, 405, 415, 422} <= report.statuses.keys()


def test_mutations_follow_from_the_seed() -> None:
    with live_server(manifests=MANIFESTS) as url:
        requests = good_requests(url)
    first, second = ([mutated(requests[k], requests, Random(k)) for k in range(len(requests))] for _ in range(2))
    assert first == second
    assert first != requests
