"""`zorse serve` as clients see it, through its proxy: tritonclient, bad requests, and ten minutes of the fuzzer."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from serving.client import Client
from serving.errors import NotFoundError
from serving.ports import free_port
from tests.cluster.commands import Started, started
from tests.serving import triton_http
from tests.serving.fuzz import fuzz
from tests.serving.raw_http import exchange
from tests.serving.test_bad_requests import BAD_REQUESTS
from tests.serving.tiny import (
    conditional_manifest,
    generator_graph,
    generator_manifest,
    inverter_graph,
    inverter_manifest,
    write,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Started]]:
    """Serve a generator, two translators and a conditional generator; yield the URL and the command."""
    folder = tmp_path_factory.mktemp("protocol")
    write(folder / "repository", generator_graph(), generator_manifest())
    write(folder / "repository", inverter_graph(), inverter_manifest())
    # Of another run, so that no model has a default partner.
    back = inverter_manifest("revert")
    back = dataclasses.replace(back, provenance=dataclasses.replace(back.provenance, digest="beef"))
    write(folder / "repository", inverter_graph(), back)
    write(folder / "repository", generator_graph(classes=3), conditional_manifest())
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with started(folder / "run", "serve", str(folder / "repository"), "--port", str(port)) as command:
        command.wait_until(lambda: _is_ready(url))
        yield url, command


def test_every_call_of_tritonclient_is_answered(server: tuple[str, Started]) -> None:
    triton_http.run_all(server[0])


def test_bad_requests_are_refused_in_json_by_whatever_answers(server: tuple[str, Started]) -> None:
    wrong = []
    for bad in BAD_REQUESTS:
        status, _, content = exchange(server[0], bad.method, bad.path, bad.headers, bad.body)
        try:
            keys = json.loads(content).keys()
        except ValueError:
            keys = set()
        if not 400 <= status < 500 or keys != {"error", "code"}:
            wrong.append((bad.name, status, content[:100]))
    assert not wrong


def test_cycle_runs_the_partner_in_its_own_replica(server: tuple[str, Started]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    with Client(server[0]) as client:
        answer = client.cycle("invert", image, partner="revert")
        np.testing.assert_array_equal(answer.there, 255 - image)
        np.testing.assert_array_equal(answer.back, image)
        assert answer.l1 == 0
        with pytest.raises(NotFoundError, match="there is no model nobody: the server has classes"):
            client.cycle("invert", image, partner="nobody")


@pytest.mark.soak
def test_fuzzer_meets_no_failure_and_no_growth_in_ten_minutes(server: tuple[str, Started]) -> None:
    url, command = server
    report = fuzz(url, seconds=600, pid=command.process.pid)
    assert not report.failures, "\n".join(report.failures)
    assert report.growth < 20 + 0.1 * report.memory[0], report.memory


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/v2/health/ready").is_success
    except httpx.TransportError:
        return False
