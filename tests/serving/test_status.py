"""The status of a server: numbers from its metrics, as a table and as JSON."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from serving.client import Client
from serving.errors import UnauthorizedError
from serving.metrics import ModelMetrics
from serving.served import Served
from serving.status import ModelStatus, ServerStatus, server_status
from tests.serving.apps import transport

URL = "http://server"


def times(*values: float) -> Iterator[float]:
    return iter(values)


def test_status_has_the_numbers_of_all_replicas(tmp_path: Path) -> None:
    client = Client(URL, transport=transport(folder=tmp_path))
    replica = ModelMetrics("digits", 1, tmp_path)
    replica.request("infer", 503, 0.9)
    replica.rejected("overloaded")
    replica.queued(4)

    def work() -> None:
        for _ in range(9):
            replica.request("generate", 200, 0.003)
        replica.request("docs", 200, 0.003)

    clock = times(10.0, 12.0)
    status = server_status(client, URL, lambda: next(clock), work)
    digits, invert = status.models
    assert (status.ready, status.url) == (True, URL)
    assert (digits.name, digits.version, digits.kind, digits.replicas) == ("digits", "1", "generator", 2)
    assert (digits.requests, digits.failed, digits.rejected) == (10, 1, 1)
    assert (digits.per_second, digits.queued) == (4.5, 4)
    assert digits.p50_seconds == pytest.approx(0.002 + 0.003 * 5 / 9)
    assert digits.p99_seconds is not None
    assert 0.5 < digits.p99_seconds <= 1
    assert digits.memory_bytes > 2**20
    (node,) = status.nodes
    assert (node.node, node.replicas) == (platform.node(), 3)
    assert node.memory_bytes == digits.memory_bytes + invert.memory_bytes
    assert (invert.replicas, invert.requests, invert.p50_seconds, invert.per_second) == (1, 0, None, 0)
    assert status.to_dict()["models"][0]["requests"] == 10


def test_status_of_a_server_that_is_not_ready_says_so(tmp_path: Path) -> None:
    client = Client(URL, transport=transport(folder=tmp_path, not_ready=("digits",)))
    clock = times(1.0, 1.0)
    status = server_status(client, URL, lambda: next(clock), lambda: None)
    assert not status.ready
    assert [model.per_second for model in status.models] == [0, 0]


def test_status_needs_the_key() -> None:
    with pytest.raises(UnauthorizedError, match="requires its API key"):
        server_status(Client(URL, transport=transport(api_key="k3y")), URL, lambda: 0.0, lambda: None)


def test_status_names_the_models_that_are_not_served(tmp_path: Path) -> None:
    skipped = {"faces/3": "the graph does not load", "x": "it has no manifest"}
    client = Client(URL, transport=transport(folder=tmp_path, unavailable=skipped))
    clock = times(1.0, 2.0)
    status = server_status(client, URL, lambda: next(clock), lambda: None)
    assert (status.ready, status.loading, status.unavailable) == (True, (), skipped)
    assert [model.name for model in status.models] == ["digits", "invert"]


def test_status_names_the_version_that_is_being_started(tmp_path: Path) -> None:
    client = Client(URL, transport=transport(folder=tmp_path))
    Served(names=["digits"], loading=("digits/2",), unavailable={"faces/3": "refused"}).write(str(tmp_path))
    clock = times(1.0, 2.0)
    status = server_status(client, URL, lambda: next(clock), lambda: None)
    assert (status.loading, status.unavailable) == (("digits/2",), {"faces/3": "refused"})


def test_page_has_every_key_of_the_json_of_a_status() -> None:
    page = (Path(__file__).parents[2] / "docs" / "serving-operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|", page.partition("| key of the JSON |")[2].partition("\n\n")[0], re.MULTILINE)
    assert rows == [field.name for field in [*fields(ServerStatus), *fields(ModelStatus)]]
