"""Batch jobs: a command becomes a plan, the missing shards of the plan are made, and the result is committed.

Running the same command again continues a job that was interrupted, and does nothing after a success.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from export.manifest import Manifest, fields_digest
from serving import artifacts
from serving.batch.formats.base import FORMATS
from serving.batch.inputs import inputs_digest, list_inputs
from serving.batch.output import Output
from serving.batch.plan import BatchVerb, Plan, environment, rows_per_run, shard_length
from serving.batch.progress import ProgressDisplay, Tally
from serving.batch.shard import Task
from serving.batch.sources.base import Listing
from serving.batch.summary import commit
from serving.batch.work import Input
from serving.batch.worker import WorkerSettings
from serving.config import DeviceChoice
from serving.engine import resolve_device
from serving.errors import BatchError
from serving.feeds import class_labels, latent_dim, source_channels
from serving.verb import VERBS, PictureRequest
from zorse_common.errors import one_line
from zorse_common.files import left_out_line
from zorse_common.result_names import result_names
from zorse_common.signals import stop_requested
from zorse_common.storage import Storage


@dataclass(frozen=True)
class JobOptions:
    """How a job writes, and where it runs.

    `format` is one of `FORMATS`, and `image_format` a format of the verb. `shard_size` is the number of images of a
    shard; by default it follows from the model and the number of images. `workers` is the number of processes, by
    default one for each CPU, or `per_gpu` for each GPU, of the cluster at `address`, which by default is a private Ray.
    With `verify` the files of existing shards are read and compared with their digests, and damaged shards are made
    again.
    """

    format: str = "webdataset"
    image_format: str = "png"
    shard_size: int | None = None
    device: DeviceChoice = "auto"
    workers: int | None = None
    per_gpu: int = 1
    address: str | None = None
    verify: bool = False


@dataclass(frozen=True)
class JobResult:
    """A finished job: how many images it has, how many inputs were bad, and whether it was finished before."""

    output: str
    images: int
    errors: int
    was_finished: bool


_DEFAULTS = JobOptions()


def generate(
    model: str,
    output: str,
    count: int,
    options: JobOptions = _DEFAULTS,
    echo: Callable[[str], Any] = print,
    **keys: Any,
) -> JobResult:
    """Write `count` images of the generator `model`, from image `first` of `seed` on, to the folder `output`.

    `keys` are those of the verb `generate`: `seed`, `first`, `truncation`, and `labels`, one class for all images.

    Raises:
        ServingError: the model is no generator, or a key or an option is not legal.
        BatchError: the output belongs to another job, or the job was interrupted; the same call continues it.
    """
    manifest, digest = _model(model)
    latent_dim(manifest.interface, "generate")
    class_labels(manifest.interface, keys.get("labels"), [0])
    if unknown := keys.keys() & {"n", "latents", "layout", "format"}:
        raise BatchError(f"a batch job takes no {', '.join(sorted(unknown))}: it has count and options")
    plan = _plan("generate", model, (manifest, digest), {"seed": 0, "first": 0, **keys}, count, options)
    return _run(plan, Listing([]), output, options, echo)


def translate(
    model: str,
    inputs: str,
    output: str,
    options: JobOptions = _DEFAULTS,
    echo: Callable[[str], Any] = print,
    **keys: Any,
) -> JobResult:
    """Translate the images at `inputs` with the translator `model`, and write them to the folder `output`.

    `inputs` is a folder, a ZIP, tar or Parquet file, an image, or a pattern of these. `keys` are those of the verb
    `translate`: `tile`, `overlap`, `black` and `white`.

    Raises:
        ServingError, BatchError: as `generate`.
    """
    manifest, digest = _model(model)
    source_channels(manifest.interface)
    if unknown := keys.keys() & {"layout", "format"}:
        raise BatchError(f"a batch job takes no {', '.join(sorted(unknown))}: it has options")
    listing = list_inputs(inputs)
    if options.shard_size is None:
        nbytes = sum(entry.size for entry in listing.entries)
        length = shard_length(manifest, len(listing.entries), nbytes)
        options = dataclasses.replace(options, shard_size=length)
    plan = _plan("translate", model, (manifest, digest), keys, len(listing.entries), options)
    plan = plan.model_copy(update={"inputs": inputs_digest(listing.entries), "source": inputs})
    return _run(plan, listing, output, options, echo)


def _model(model: str) -> tuple[Manifest, str]:
    manifest = artifacts.load(model).manifest
    return manifest, fields_digest(dataclasses.asdict(manifest))


def _plan(
    verb: BatchVerb,
    model: str,
    known: tuple[Manifest, str],
    keys: Mapping[str, Any],
    count: int,
    options: JobOptions,
) -> Plan:
    """Return the plan of a command. Raises InvalidKeyError or BatchError if a value is not legal."""
    manifest, digest = known
    request = VERBS.find(verb).request.parse({**keys, "format": options.image_format})
    assert isinstance(request, PictureRequest)
    FORMATS.find(options.format)
    if count < 1:
        raise BatchError(f"the number of images is {count} and must be at least 1")
    if options.shard_size is not None and options.shard_size < 1:
        raise BatchError(f"the shard size is {options.shard_size} and must be at least 1")
    return Plan(
        verb=verb,
        model=manifest.name,
        version=manifest.version,
        model_digest=digest,
        keys={key: value for key, value in keys.items() if value is not None},
        count=count,
        inputs=None,
        format=options.format,
        image_format=options.image_format,
        shard_length=options.shard_size or shard_length(manifest, count),
        batch=rows_per_run(manifest),
        device=resolve_device(options.device),
        uri=Storage(model).uri,
        source=None,
        environment=environment(options.format, options.image_format),
    )


def _run(plan: Plan, listing: Listing, uri: str, options: JobOptions, echo: Callable[[str], Any]) -> JobResult:
    output = Output(Storage(uri))
    try:
        with output.locked():
            plan = _claim(output, plan, echo)
            manifest = output.manifest(plan)
            was_finished = manifest is not None
            if manifest is None or options.verify:
                output.sweep()
                try:
                    manifest = _make_missing(output, plan, listing, options, echo)
                finally:
                    output.sweep()
    except OSError as error:
        raise BatchError(f"{output.storage.uri} cannot be written: {one_line(error)}") from error
    return JobResult(output.storage.uri, manifest["images"], manifest["errors"], was_finished)


def _claim(output: Output, plan: Plan, echo: Callable[[str], Any]) -> Plan:
    """Return the plan of the output, with the places of this command."""
    first = output.claim(plan)
    if changed := plan.changed_environment(first):
        echo(f"warning: the job started with other versions, so that bytes may differ: {'; '.join(changed)}")
    return first.model_copy(update={"uri": plan.uri, "source": plan.source})


def _make_missing(
    output: Output, plan: Plan, listing: Listing, options: JobOptions, echo: Callable[[str], Any]
) -> dict[str, Any]:
    """Make the shards that have no record, and commit the job. Returns the manifest."""
    if line := left_out_line(listing.left_out):
        echo(line)
    records = {} if options.verify else output.records(plan)
    tasks = _tasks(plan, listing, [shard for shard in range(plan.shards) if shard not in records])
    warned: set[str] = set()
    tally = Tally(plan.count, sum(len(plan.numbers(shard)) for shard in records))
    settings = WorkerSettings(plan.to_json(), output.storage.uri, verify=options.verify)
    with stop_requested() as stop, ProgressDisplay(tally, Console(stderr=True), echo) as display:
        display.update()
        if tasks:
            from serving.batch.driver import Scale, run_tasks

            scale = Scale(options.workers, options.per_gpu, options.address)
            for outcome in run_tasks(plan, tasks, settings, scale, stop):
                records[outcome.record.shard] = outcome.record
                tally.add(outcome)
                display.update()
                for warning in outcome.warnings - warned:
                    echo(f"warning: a worker differs from this machine, so that bytes may differ: {warning}")
                warned |= outcome.warnings
    report = {
        "model": f"{plan.model}@{plan.version}",
        "seconds": round(tally.seconds, 3),
        "images": plan.count,
        "new_images": tally.new,
        "images_per_second": round(tally.images_per_second, 1),
        "shards": plan.shards,
        "new_shards": len(tasks),
        "seconds_of_stages": {stage: round(seconds, 3) for stage, seconds in sorted(tally.stages.items())},
        "left_out": len(listing.left_out),
    }
    commit(output, plan, [records[shard] for shard in range(plan.shards)], report)
    manifest = output.manifest(plan)
    assert manifest is not None
    return manifest


def _tasks(plan: Plan, listing: Listing, shards: Sequence[int]) -> list[Task]:
    if plan.verb == "generate":
        return [Task(shard) for shard in shards]
    names = result_names([entry.name for entry in listing.entries], plan.image_format)
    return [
        Task(shard, [Input(number, names[number], listing.entries[number]) for number in plan.numbers(shard)])
        for shard in shards
    ]
