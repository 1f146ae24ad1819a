"""The numbers of replicas: what they count, and how the files of several processes are summed."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector

from serving.metrics import ModelMetrics, metrics_folder
from serving.readings import MEMORY, Readings, expose, families_of, parse, processes_of, readings_of

MODEL = {"model": "digits", "version": "3"}


def read(folder: Path) -> Readings:
    return readings_of(families_of(processes_of(folder)))


def test_metrics_count_requests_by_route_and_status(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    for status in (200, 200, 400):
        metrics.request("infer", status, 0.003)
    metrics.request("generate", 200, 0.5)
    metrics.rejected("queue")
    readings = read(tmp_path)
    assert readings.by("status", "zorse_request_seconds_count", route="infer") == {"200": 2, "400": 1}
    assert readings.by("route", "zorse_request_seconds_count", **MODEL) == {"infer": 3, "generate": 1}
    assert readings.total("zorse_request_seconds_sum", route="generate") == 0.5
    assert readings.total("zorse_request_seconds_count") == 4
    assert readings.by("reason", "zorse_rejected_total") == {"queue": 1}


def test_metrics_count_batches(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    metrics.batch(requests=2, rows=5, waited=[0.1, 0.3], seconds=0.25)
    metrics.batch(requests=1, rows=5, waited=[0.0], seconds=0.5)
    metrics.batch(requests=1, rows=1, waited=[0.0], seconds=0.125)
    readings = read(tmp_path)
    assert readings.total("zorse_rows_total", **MODEL) == 11
    assert readings.by("rows", "zorse_batches_total") == {"5": 2, "1": 1}
    assert readings.by("rows", "zorse_batch_seconds_total") == {"5": 0.75, "1": 0.125}
    assert readings.total("zorse_infer_seconds_count") == 4
    assert readings.total("zorse_infer_seconds_sum") == 1.125
    assert readings.total("zorse_queue_seconds_count") == 4
    assert readings.total("zorse_queue_seconds_sum") == pytest.approx(0.4)
    assert readings.total("zorse_last_batch_timestamp_seconds") > 0


def test_metrics_of_replicas_and_models_are_summed_apart(tmp_path: Path) -> None:
    replicas = [ModelMetrics("digits", 3, tmp_path) for _ in range(2)] + [ModelMetrics("invert", 1, tmp_path)]
    for number, metrics in enumerate(replicas):
        metrics.decode(0.5)
        metrics.encode(0.25)
        metrics.in_flight(number + 1)
        metrics.queued(10)
    readings = read(tmp_path)
    assert readings.by("model", "zorse_replicas") == {"digits": 2, "invert": 1}
    assert readings.by("model", "zorse_in_flight") == {"digits": 3, "invert": 3}
    assert readings.by("model", "zorse_queued") == {"digits": 20, "invert": 10}
    assert readings.by("model", "zorse_decode_seconds_count") == {"digits": 2, "invert": 1}
    assert readings.total("zorse_encode_seconds_sum") == 0.75
    assert readings.total(MEMORY, model="invert") > 2**20


def test_metrics_can_be_used_by_threads(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    threads = [threading.Thread(target=lambda: [metrics.decode(1.0) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(tmp_path).total("zorse_decode_seconds_sum") == 2000


KILLED = """
import os, signal, sys
from serving.metrics import ModelMetrics
metrics = ModelMetrics("digits", 3, sys.argv[1])
metrics.request("infer", 200, 0.1)
metrics.batch(1, 1, [0.0], 0.1)
metrics.in_flight(7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_metrics_of_a_killed_process_keep_counts_and_lose_gauges(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    metrics.in_flight(1)
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    readings = read(tmp_path)
    assert len(list(metrics_folder(tmp_path).glob("counter_*.db"))) == 2
    assert readings.total("zorse_request_seconds_count") == 1
    assert readings.total("zorse_last_batch_timestamp_seconds") > 0
    assert (readings.total("zorse_replicas"), readings.total("zorse_in_flight")) == (1, 1)


def test_metrics_of_a_forked_process_have_files_of_their_own(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    metrics.rejected("queue")
    child = os.fork()
    if not child:  # pragma: no cover
        metrics.rejected("queue")
        os._exit(0)
    os.waitpid(child, 0)
    metrics.rejected("queue")
    assert read(tmp_path).total("zorse_rejected_total") == 3
    assert read(tmp_path).total("zorse_replicas") == 1


def test_metrics_without_a_folder_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    metrics = ModelMetrics("digits", 3)
    metrics.request("infer", 200, 0.1)
    assert list(tmp_path.iterdir()) == []
    assert metrics.numbers()["histogram"]


def test_sums_equal_those_of_the_library_over_the_same_files(tmp_path: Path) -> None:
    for number in range(3):
        metrics = ModelMetrics("digits", 3, tmp_path)
        for seconds in (0.0004, 0.003, 7.0, 100.0):
            metrics.request("infer", 200 + number, seconds * number)
            metrics.batch(2, 5 + number, [seconds], seconds)
        metrics.rejected("queue")
        metrics.in_flight(number)
        metrics.close()

    def samples(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
        found = [sample for family in families for sample in family.samples if family.type != "gauge"]
        return {(one.name, *map(str, sorted(one.labels.items()))): one.value for one in found}

    files = [str(file) for file in metrics_folder(tmp_path).glob("*.db")]
    expected = samples(MultiProcessCollector.merge(files))
    assert len(expected) > 100
    assert samples(families_of(processes_of(tmp_path))) == pytest.approx(expected)


def test_expose_writes_prometheus_text_that_parse_reads(tmp_path: Path) -> None:
    metrics = ModelMetrics('a "quoted" model', 3, tmp_path)
    metrics.request("infer", 200, 0.0015)
    metrics.request("infer", 200, 100.0)
    page = expose(families_of(processes_of(tmp_path))).decode()
    assert "# TYPE zorse_request_seconds histogram" in page
    readings = parse(page)
    assert readings.total("zorse_request_seconds_count", model='a "quoted" model') == 2
    assert readings.by("le", "zorse_request_seconds_bucket")["0.001"] == 0
    assert readings.by("le", "zorse_request_seconds_bucket")["0.002"] == 1
    assert readings.by("le", "zorse_request_seconds_bucket")["+Inf"] == 2


def test_metrics_files_have_their_space_from_the_start(tmp_path: Path) -> None:
    metrics = ModelMetrics("digits", 3, tmp_path)
    for number in range(40):
        metrics.request(f"route{number}", 200, 0.1)
    files = list(metrics_folder(tmp_path).iterdir())
    assert len(files) == 4
    assert {file.stat().st_size for file in files} == {2**18}
    assert read(tmp_path).total("zorse_request_seconds_count") == 40


def test_read_skips_a_file_that_is_just_being_made(tmp_path: Path) -> None:
    metrics_folder(tmp_path).mkdir()
    for content in (b"", bytes(2**16)):
        for name in ("counter_1-a.db", "gauge_livesum_1-a.db", f"gauge_livesum_{os.getpid()}-b.db"):
            (metrics_folder(tmp_path) / name).write_bytes(content)
        with (metrics_folder(tmp_path) / f"gauge_livesum_{os.getpid()}-b.db").open() as locked:
            fcntl.flock(locked, fcntl.LOCK_EX)
            assert read(tmp_path).samples == ()


def test_quantile_interpolates_in_a_bucket() -> None:
    counts = {"1.0": 10, "2.0": 30, "4.0": 40, "+Inf": 40}
    page = "# TYPE t histogram\n" + "".join(f't_bucket{{le="{le}"}} {count}\n' for le, count in counts.items())
    readings = parse(page)
    assert [readings.quantile("t", share) for share in (0.25, 0.5, 1.0)] == [1.0, 1.5, 4.0]
    assert parse(page.replace('+Inf"} 40', '+Inf"} 400')).quantile("t", 0.99) == 4.0
    assert Readings(()).quantile("t", 0.5) is None
