"""Triton's statistics and the metrics page, from the real counters of several replicas."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from serving.batcher import Batcher
from serving.config import Batching
from serving.metrics import ModelMetrics
from serving.readings import parse
from tests.serving.apps import server
from tests.serving.fakes import FakeEngine

ZERO = {"count": 0, "ns": 0}


def statistics(client: Any, path: str) -> dict[str, Any]:
    response = client.get(path)
    assert response.status_code == 200, response.text
    (entry,) = (one for one in response.json()["model_stats"] if one["name"] == "digits")
    return dict(entry)


def run_batches(metrics: ModelMetrics, sizes: list[int]) -> None:
    """Run one batch of single rows after the other on a batcher."""

    async def play() -> None:
        batcher = Batcher(FakeEngine().run, Batching(), observer=metrics)
        for size in sizes:
            inputs = {"latent": np.zeros((1, 4), np.float32)}
            await asyncio.gather(*(batcher.submit(inputs) for _ in range(size)))

    asyncio.run(play())


def test_statistics_of_models_that_did_nothing_are_zero(tmp_path: Path) -> None:
    for folder in (tmp_path, None):
        client = server(folder=folder)
        assert [one["name"] for one in client.get("/v2/models/stats").json()["model_stats"]] == ["digits", "invert"]
        entry = statistics(client, "/v2/models/digits/stats")
        assert (entry["last_inference"], entry["inference_count"], entry["batch_stats"]) == (0, 0, [])
        assert entry["inference_stats"] == dict.fromkeys(entry["inference_stats"], ZERO)


def test_statistics_sum_the_runs_of_two_replicas(tmp_path: Path) -> None:
    client = server(folder=tmp_path)
    for sizes in ([3, 1], [3]):
        run_batches(ModelMetrics("digits", 1, tmp_path), sizes)
    entry = statistics(client, "/v2/models/stats")
    assert (
        entry
        == statistics(client, "/v2/models/digits/stats")
        == statistics(client, "/v2/models/digits/versions/1/stats")
    )
    assert (entry["name"], entry["version"], entry["inference_count"], entry["execution_count"]) == (
        "digits",
        "1",
        7,
        3,
    )
    parts = entry["inference_stats"]
    assert (parts["queue"]["count"], parts["compute_infer"]["count"]) == (7, 7)
    sizes = {one["batch_size"]: one["compute_infer"]["count"] for one in entry["batch_stats"]}
    assert sizes == {1: 1, 3: 2}
    # All requests of a batch wait for the whole run.
    total = sum(one["batch_size"] * one["compute_infer"]["ns"] for one in entry["batch_stats"])
    assert parts["compute_infer"]["ns"] == pytest.approx(total, rel=1e-6)


def test_statistics_count_requests_by_success_and_time_their_parts(tmp_path: Path) -> None:
    client = server(folder=tmp_path)
    assert client.post("/v2/models/digits/generate?n=2").status_code == 200
    assert client.post("/v2/models/digits/infer", content=b"{").status_code == 400
    client.get("/v2/models/digits")
    parts = statistics(client, "/v2/models/digits/stats")["inference_stats"]
    assert {name: part["count"] for name, part in parts.items() if part["count"]} == {
        "success": 1,
        "fail": 1,
        "compute_input": 1,
        "compute_output": 1,
    }
    assert parts["success"]["ns"] >= parts["compute_input"]["ns"] + parts["compute_output"]["ns"] > 0


def test_statistics_of_other_versions_and_models_are_404() -> None:
    client = server()
    for path in ("/v2/models/digits/versions/9/stats", "/v2/models/none/stats"):
        assert client.get(path).status_code == 404


def test_metrics_page_needs_the_key_and_has_every_request(tmp_path: Path) -> None:
    client = server(folder=tmp_path, api_key="k3y")
    assert client.get("/metrics").status_code == 401
    headers = {"x-api-key": "k3y"}
    image = io.BytesIO()
    Image.new("RGB", (8, 8)).save(image, "PNG")
    client.post("/v2/models/invert/translate", content=image.getvalue(), headers=headers)
    client.post("/v2/models/invert/translate", content=image.getvalue())
    for path in ("", "/ready", "/versions/1/ready", "/whatever/a", "/whatever/b", "/docs"):
        client.get(f"/v2/models/invert{path}", headers=headers)
    client.post("/v2/models/invert/translat", headers=headers)
    page = client.get("/metrics", headers=headers)
    assert page.headers["content-type"].startswith("text/plain; version=")
    readings = parse(page.text)
    assert readings.by("route", "zorse_request_seconds_count", model="invert") == {
        "translate": 2,
        "invert": 1,
        "ready": 1,
        "docs": 1,
        "other": 4,
    }
    assert readings.by("status", "zorse_request_seconds_count", route="translate") == {"200": 1, "401": 1}
    assert readings.by("reason", "zorse_rejected_total", model="invert") == {"unauthorized": 1}
    assert readings.by("model", "zorse_in_flight") == {"digits": 0, "invert": 0}
    assert readings.total("zorse_decode_seconds_count") == readings.total("zorse_encode_seconds_count") == 1
