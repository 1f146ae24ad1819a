"""Computes one shard of a batch job, and publishes it. Doing it again, or twice at once, writes the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from serving.batch.formats.base import FORMATS, Item
from serving.batch.output import BadItem, Output, Record, files_digest, shard_name
from serving.batch.pipeline import Stopwatch
from serving.batch.plan import Plan
from serving.batch.results import ResultMaker
from serving.batch.sources.base import Entry, Listing
from serving.batch.stages import Input
from zorse_common.result_names import result_names


@dataclass(frozen=True)
class Task:
    """What a worker is sent: the number of a shard, and of a translation its input files."""

    shard: int
    inputs: Sequence[Input] = ()

    def to_json(self) -> str:
        """Return the task as JSON."""
        return json.dumps([self.shard, [[one.number, one.name, one.entry] for one in self.inputs]])

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Parse what `to_json` returned."""
        shard, inputs = json.loads(text)
        entries = (Entry._make([*fields[:5], tuple(fields[5]), fields[6]]) for _, _, fields in inputs)
        return cls(
            shard, [Input(number, name, entry) for (number, name, _), entry in zip(inputs, entries, strict=True)]
        )


def tasks_of(plan: Plan, listing: Listing, shards: Sequence[int]) -> list[Task]:
    """Return the tasks of `shards`; `listing` has the inputs of a translation."""
    if plan.verb == "generate":
        return [Task(shard) for shard in shards]
    names = result_names([entry.name for entry in listing.entries], plan.image_format)
    return [
        Task(shard, [Input(number, names[number], listing.entries[number]) for number in plan.numbers(shard)])
        for shard in shards
    ]


@dataclass(frozen=True)
class Outcome:
    """What a worker returns: the record of a shard, whether it was made now, and the seconds spent in each stage.

    `warnings` say how the worker's libraries and processor differ from those of the plan.
    """

    record: Record
    is_new: bool
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: frozenset[str] = frozenset()


def _ignore(number: int) -> None:
    return None


class ShardMaker:
    """Makes the shards of one job."""

    def __init__(self, results: ResultMaker, plan: Plan, output: Output, *, verify: bool = False) -> None:
        """Publish `results`. With `verify` the files of existing shards are read and compared."""
        self._results, self._plan, self._output, self._verify = results, plan, output, verify
        self._digest = plan.digest()
        self._write = FORMATS.find(plan.format)

    def make(self, task: Task, report: Callable[[int], Any] = _ignore) -> Outcome:
        """Return the record of a shard. A shard that is whole is not made again.

        `report` is called after each result, with the number of results so far.

        Raises:
            FetchError, OSError: a storage failed.
            EngineError: the graph failed.
            BatchError: the model is not that of the plan, or a process died.
        """
        record = self._output.record(task.shard, self._digest)
        if record is not None and not (self._verify and not self._output.is_whole(record)):
            return Outcome(record, is_new=False)
        if self._verify:
            self._output.withdraw(task.shard)
        stopwatch = Stopwatch()
        items: list[Item] = []
        bad: list[BadItem] = []
        for result in self._results.results(self._plan.numbers(task.shard), task.inputs, stopwatch):
            if isinstance(result, Item):
                items.append(result)
            else:
                bad.append(result)
            report(len(items) + len(bad))
        with stopwatch.measured("pack"):
            files = self._write(shard_name(task.shard), items, self._results.columns)
            nbytes = sum(map(len, files.values()))
            digest = files_digest(files)
        record = Record(task.shard, self._digest, len(items), len(files), nbytes, digest, tuple(bad))
        with stopwatch.measured("write"):
            if self._verify:
                self._output.remove_others(task.shard, files)
            self._output.publish_shard(files, record)
        return Outcome(record, is_new=True, seconds=stopwatch.seconds)

    def close(self) -> None:
        """End the threads and processes."""
        self._results.close()
