"""The actor of a batch job: Ray Data calls it with one task at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from serving.batch.alone import Alone
from serving.batch.board import Reports
from serving.batch.output import Output, Record, shard_name
from serving.batch.plan import Plan, environment
from serving.batch.results import EXPECTED_ERRORS, InProcess
from serving.batch.shard import Outcome, ShardMaker, Task
from serving.errors import BatchError
from zorse_common.errors import one_line
from zorse_common.storage import Storage

TASK, OUTCOME = "task", "outcome"
"""The columns of a row that goes to a worker, and of the row that it returns; both are JSON."""
_DEATHS, _MOST_DEATHS = 2, 5
"""After how many deaths of processes with a shard its images are made alone, and after how many it is given up."""
_REPORT_SECONDS = 1.0


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know: the plan of the job, where to write, and its part of a GPU's memory."""

    plan: Plan
    output: str
    gpu_fraction: float = 1.0
    verify: bool = False


class ShardWorker:
    """Holds the models, and makes shards with them.

    Errors that a user can cause are returned and not raised: Ray would print their stack traces, and would make the
    actor again.
    """

    def __init__(self, settings: WorkerSettings, board: Reports) -> None:
        """The models are opened for the first shard: if the process dies with it, `board` knows with which shard."""
        self._settings, self._board = settings, board
        self._maker: ShardMaker | None = None
        self._is_alone = False

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Make the shards of `rows` and return their outcomes."""
        return {OUTCOME: [self._make(str(task)) for task in rows[TASK]]}

    def _make(self, text: str) -> str:
        try:
            task = Task.from_json(text)
            deaths = self._board.begin(task.shard)
            if deaths >= _MOST_DEATHS:
                raise BatchError(self._given_up(task, deaths))
            maker = self._maker_for(is_alone=deaths >= _DEATHS)
            return outcome_json(replace(maker.make(task, self._reporter(task.shard)), warnings=self._warnings))
        except EXPECTED_ERRORS as error:
            return json.dumps({"failure": one_line(error)})

    @cached_property
    def _warnings(self) -> frozenset[str]:
        plan = self._settings.plan
        own = environment(plan.format, plan.image_format)
        here = plan.model_copy(update={"environment": plan.environment | own})
        return frozenset(here.changed_environment(plan))

    def _maker_for(self, *, is_alone: bool) -> ShardMaker:
        """Return the maker, which is made again if `is_alone` changes. Never are the models in memory twice."""
        if self._maker is None or is_alone != self._is_alone:
            if self._maker is not None:
                self._maker.close()
                self._maker = None
            settings = self._settings
            results = (Alone if is_alone else InProcess.open)(settings.plan, settings.gpu_fraction)
            output = Output(Storage(settings.output))
            self._maker = ShardMaker(results, settings.plan, output, verify=settings.verify)
            self._is_alone = is_alone
        return self._maker

    def _reporter(self, shard: int) -> Callable[[int], None]:
        """Return a function that reports the number of images of a shard, once a second."""
        last = time.monotonic()

        def report(images: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _REPORT_SECONDS:
                last = now
                self._board.report(shard, images)

        return report

    def _given_up(self, task: Task, deaths: int) -> str:
        numbers = self._settings.plan.numbers(task.shard)
        names = [source.entry.name for source in task.inputs] or [f"image {number}" for number in numbers]
        return (
            f"{deaths} processes died with shard {shard_name(task.shard)} ({names[0]} to {names[-1]}), also when its "
            "images were made one by one: check the memory of the nodes, or leave these images out"
        )


def outcome_json(outcome: Outcome) -> str:
    """Return an outcome as JSON."""
    return json.dumps(asdict(outcome) | {"warnings": sorted(outcome.warnings)})


def parse_outcome(text: str) -> Outcome:
    """Parse what `outcome_json` returned.

    Raises:
        BatchError: the worker failed; the message is the reason.
    """
    fields = json.loads(text)
    if "failure" in fields:
        raise BatchError(fields["failure"])
    record = Record.from_json(json.dumps(fields["record"]))
    return Outcome(record, fields["is_new"], fields["seconds"], frozenset(fields["warnings"]))
