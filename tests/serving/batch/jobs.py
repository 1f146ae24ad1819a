"""Batch jobs in one process, with tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from click.testing import Result
from typer.testing import CliRunner

from export.manifest import Manifest
from serving.artifacts import load
from serving.batch import job
from serving.batch.inputs import inputs_digest, list_inputs
from serving.batch.job import JobOptions
from serving.batch.output import Output
from serving.batch.passes import ModelPass
from serving.batch.plan import BatchVerb, Plan
from serving.batch.results import InProcess
from serving.batch.runner import Runner
from serving.batch.shard import Outcome, ShardMaker, Task
from serving.batch.sources.base import Entry
from serving.batch.stages import Input
from serving.cli import register
from zorse_common.result_names import result_names
from zorse_common.storage import Storage


def pass_of(manifest: Manifest, **fields: Any) -> ModelPass:
    """Return a pass of a model, the only one of a job by default."""
    known = {"column": "image", "model": manifest.name, "version": manifest.version, "digest": "feed", "uri": "x"}
    return ModelPass(**(known | fields))


def plan_of(manifest: Manifest, **fields: Any) -> Plan:
    """Return a plan of 20 images in shards of 8."""
    known: dict[str, Any] = {
        "verb": "generate" if manifest.interface.kind == "generator" else "translate",
        "passes": (pass_of(manifest),),
        "keys": {"seed": 7} if manifest.interface.kind == "generator" else {},
        "count": 20,
        "inputs": None,
        "format": "webdataset",
        "image_format": "png",
        "shard_size": 8,
        "batch": 4,
        "device": "cpu",
        "place": None,
        "environment": {"numpy": "2"},
    }
    return Plan(**(known | fields))


def plan_of_command(model: Path | str, keys: dict[str, Any], count: int, options: JobOptions) -> Plan:
    """Return the plan of a command on the model at `model`; that of a translation lacks its inputs."""
    artifact = load(model)
    verb: BatchVerb = "generate" if artifact.manifest.interface.kind == "generator" else "translate"
    return job._plan(verb, [artifact], [], keys, count, options)


def make_all(
    model: Path | Sequence[Path], plan: Plan, folder: Path, inputs: str | None = None, **options: Any
) -> list[Outcome]:
    """Claim the output and make every shard of a job in this process, without Ray.

    Of a job with several passes `model` has the model of each.
    """
    entries: list[Entry] = []
    if inputs is not None:
        listing = list_inputs(inputs)
        entries = listing.entries
        known: dict[str, Any] = {"inputs": inputs_digest(listing), "place": inputs, "count": len(entries)}
        known["carried"] = listing.columns
        plan = plan.model_copy(update=known)
    Output(Storage(folder)).claim(plan)
    runners = [Runner.load(str(one), "cpu", plan.batch) for one in ([model] if isinstance(model, Path) else model)]
    source = InProcess(runners, plan)
    maker = ShardMaker(source, plan, Output(Storage(folder)), **options)
    names = result_names([entry.name for entry in entries], plan.image_format)
    every = [Input(i, name, e) for i, (name, e) in enumerate(zip(names, entries, strict=True))]
    try:
        return [maker.make(Task(k, [every[i] for i in plan.numbers(k)] if every else [])) for k in range(plan.shards)]
    finally:
        maker.close()


class Reports:
    """The reports of a worker in this process. `deaths` processes died with each shard before."""

    def __init__(self, deaths: int = 0) -> None:
        self.deaths = deaths
        self.images: list[int] = []

    def begin(self, shard: int) -> int:
        return self.deaths

    def report(self, shard: int, images: int) -> None:
        self.images.append(images)


def invoke(*arguments: object) -> Result:
    """Run a command of the serving stage in this process."""
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def files_of(folder: Path) -> dict[str, bytes]:
    """Return the content of all files below a folder by their relative paths."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def images_of(folder: Path) -> dict[str, bytes]:
    """Return the PNG files below a folder by their relative paths."""
    return {name: content for name, content in files_of(folder).items() if name.endswith(".png")}
