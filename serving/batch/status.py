"""Reads how far a batch job is from its output alone, on any machine, while it runs or after it was killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from serving.batch.output import Output
from serving.errors import BatchError
from zorse_common.storage import Storage

JobState = Literal["finished", "running", "unfinished"]
"""A job is running while it holds the lock of its output, which only this machine's disk shows; else unfinished."""


@dataclass(frozen=True)
class JobStatus:
    """How far a job is. `images` counts those of the shards that are done, with their bad inputs."""

    output: str
    state: JobState
    verb: str
    models: str
    format: str
    shards_done: int
    shards: int
    images_done: int
    images: int
    errors: int | None
    """The number of bad inputs, or None before the job is finished."""


def job_status(uri: str) -> JobStatus:
    """Return the status of the job whose output is at `uri`.

    Raises:
        BatchError: there is no batch job.
    """
    output = Output(Storage(uri))
    plan = output.plan()
    if plan is None:
        raise BatchError(f"there is no batch job at {output.storage.uri}: give the folder of --output")
    manifest = output.manifest(plan)
    done = [shard for shard in output.recorded() if shard < plan.shards]
    return JobStatus(
        output=output.storage.uri,
        state="finished" if manifest is not None else "running" if output.is_locked() else "unfinished",
        verb=plan.verb,
        models=plan.models,
        format=plan.format,
        shards_done=len(done),
        shards=plan.shards,
        images_done=sum(len(plan.numbers(shard)) for shard in done),
        images=plan.count,
        errors=None if manifest is None else manifest["errors"],
    )
