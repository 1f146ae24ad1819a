"""The reports of processes on a cluster: what the gateway sums up of them."""

from __future__ import annotations

import pickle

from prometheus_client.core import Metric

from serving.metrics import ModelMetrics, UpdateCounts
from serving.readings import MEMORY, Readings, families_of, readings_of
from serving.reports import Report, Reports


class World:
    """Processes of one model that report to a gateway, and a clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reports = Reports(lambda: self.now)
        self.metrics: dict[str, ModelMetrics] = {}

    def work(self, process: str, requests: int) -> None:
        metrics = self.metrics.setdefault(process, ModelMetrics("digits", 3))
        for _ in range(requests):
            metrics.request("infer", 200, 0.1)
        metrics.in_flight(requests)
        metrics.batch(requests=1, rows=4, waited=[], seconds=0.5)

    def report(self, process: str, *, is_last: bool = False) -> None:
        self.reports.take(Report(process, f"node-of-{process}", self.metrics[process].numbers(), 1000, is_last))

    def readings(self) -> Readings:
        # What another process asks for travels.
        families: list[Metric] = pickle.loads(pickle.dumps(families_of(self.reports.processes())))
        return readings_of(families)

    def counts(self) -> tuple[float, float, float, float]:
        """Return the requests, the images, the requests in progress, and the replicas."""
        now = self.readings()
        names = ("zorse_request_seconds_count", "zorse_rows_total", "zorse_in_flight", "zorse_replicas")
        requests, rows, in_flight, replicas = (now.total(name, model="digits", version="3") for name in names)
        return requests, rows, in_flight, replicas


def test_reports_of_all_processes_are_summed() -> None:
    world = World()
    assert world.counts() == (0, 0, 0, 0)
    world.work("a", 2)
    world.work("b", 3)
    world.report("a")
    world.report("b")
    assert world.counts() == (5, 8, 5, 2)
    assert world.readings().by("process", MEMORY) == {"a": 1000, "b": 1000}
    assert world.readings().by("node", MEMORY) == {"node-of-a": 1000, "node-of-b": 1000}


def test_report_takes_the_place_of_the_one_before() -> None:
    world = World()
    for _ in range(3):
        world.work("a", 1)
        world.report("a")
        world.report("a")
    assert world.counts() == (3, 12, 1, 1)


def test_counts_of_a_process_that_stops_stay_and_its_gauges_do_not() -> None:
    world = World()
    for process in ("a", "b"):
        world.work(process, 2)
        world.report(process)
    world.work("a", 1)
    world.report("a", is_last=True)
    assert world.counts() == (5, 12, 2, 1)
    world.report("b", is_last=True)
    assert world.counts() == (5, 12, 0, 0)
    assert world.readings().total(MEMORY) == 0


def test_counts_of_a_process_that_is_silent_stay_and_its_gauges_come_back_with_it() -> None:
    world = World()
    world.work("a", 2)
    world.report("a")
    world.now = 9.0
    assert world.counts() == (2, 4, 2, 1)
    world.now = 11.0
    assert world.counts() == (2, 4, 0, 0)
    world.report("a")
    assert world.counts() == (2, 4, 2, 1)


def test_gateway_that_has_just_started_has_the_numbers_of_those_that_live() -> None:
    world = World()
    world.work("a", 2)
    world.report("a")
    world.reports = Reports(lambda: world.now)
    assert world.counts() == (0, 0, 0, 0)
    world.report("a")
    assert world.counts() == (2, 4, 2, 1)


def test_updates_are_counted_beside_models() -> None:
    world, updates = World(), UpdateCounts(None)
    updates.add("digits", "done")
    updates.add("digits", "done")
    world.reports.take(Report("following", "node", updates.numbers()))
    assert world.readings().by("outcome", "zorse_updates_total") == {"done": 2}
    assert world.readings().total(MEMORY) == 0
