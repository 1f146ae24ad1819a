"""The actor of a batch job: Ray Data calls it with one task at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from serving.batch.output import Output, Record
from serving.batch.plan import Plan, environment
from serving.batch.runner import Runner
from serving.batch.shard import Outcome, ShardMaker, Task
from serving.errors import BatchError
from zorse_common.errors import FetchError, ZorseError, one_line
from zorse_common.storage import Storage

TASK, OUTCOME = "task", "outcome"
"""The columns of a row that goes to a worker, and of the row that it returns; both are JSON."""
_USER_ERRORS = (ZorseError, FetchError, OSError, MemoryError)


@dataclass(frozen=True)
class WorkerSettings:
    """What a worker needs to know: the job's plan as JSON, where to write, and its part of a GPU's memory."""

    plan: str
    output: str
    gpu_fraction: float = 1.0
    verify: bool = False


class ShardWorker:
    """Holds the model, and makes shards with it.

    Errors that a user can cause are returned and not raised: Ray would print their stack traces, and would make the
    actor again.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._failure, self._warnings = "", frozenset[str]()
        try:
            plan = Plan.from_json(settings.plan, "the plan of the job")
            own = environment(plan.format, plan.image_format)
            here = plan.model_copy(update={"environment": plan.environment | own})
            self._warnings = frozenset(here.changed_environment(plan))
            self._maker = _maker(plan, settings)
        except _USER_ERRORS as error:
            self._failure = one_line(error)

    def __call__(self, rows: Mapping[str, Sequence[Any]]) -> dict[str, list[str]]:
        """Make the shards of `rows` and return their outcomes."""
        return {OUTCOME: [self._make(str(task)) for task in rows[TASK]]}

    def _make(self, task: str) -> str:
        if self._failure:
            return json.dumps({"failure": self._failure})
        try:
            return outcome_json(replace(self._maker.make(Task.from_json(task)), warnings=self._warnings))
        except _USER_ERRORS as error:
            return json.dumps({"failure": one_line(error)})


def _maker(plan: Plan, settings: WorkerSettings) -> ShardMaker:
    runner = Runner.load(plan.uri, plan.device, plan.batch, gpu_fraction=settings.gpu_fraction)
    if runner.origin.digest != plan.model_digest:
        raise BatchError(f"the model at {plan.uri} is not the one that the job started with: restore it")
    return ShardMaker(runner, plan, Output(Storage(settings.output)), verify=settings.verify)


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
