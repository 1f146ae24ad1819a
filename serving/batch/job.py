"""Batch jobs: a command becomes a plan, the missing shards of the plan are made, and the result is committed.

Running the same command again continues a job that was interrupted, and does nothing after a success.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from serving import artifacts
from serving.artifacts import Artifact
from serving.batch.devices import job_device
from serving.batch.formats.base import FORMATS
from serving.batch.inputs import check_output, inputs_digest, inputs_nbytes, list_inputs
from serving.batch.output import Output
from serving.batch.passes import model_passes, partners, translators
from serving.batch.plan import MOST_SHARDS, BatchVerb, Plan, default_shard_size, environment, rows_per_run
from serving.batch.progress import ProgressDisplay, Tally
from serving.batch.shard import tasks_of
from serving.batch.sources.base import Listing
from serving.batch.summary import commit
from serving.batch.worker import WorkerSettings
from serving.config import DeviceChoice
from serving.errors import BatchError, BatchStoppedError
from serving.feeds import class_labels, latent_dim
from serving.verb import VERBS
from serving.verbs.generate import GenerateRequest
from zorse_common.errors import one_line
from zorse_common.files import left_out_line
from zorse_common.globs import expanded
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


@contextlib.contextmanager
def _signals_as_stops() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C, also while inputs are listed or the job is committed, into `BatchStoppedError`."""
    try:
        with stop_requested(_interrupt):
            yield
    except KeyboardInterrupt as error:
        raise BatchStoppedError("the job was stopped: the same command continues it") from error


def _interrupt() -> None:
    raise KeyboardInterrupt


@_signals_as_stops()
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
    artifact = artifacts.load(model)
    latent_dim(artifact.manifest.interface, "generate")
    if unknown := keys.keys() & {"n", "latents", "layout", "format"}:
        raise BatchError(f"a batch job takes no {', '.join(sorted(unknown))}: it has count and options")
    options = _resolved(options, output)
    return _run(_plan("generate", [artifact], [], keys, count, options), Listing([]), output, options, echo)


@_signals_as_stops()
def translate(
    models: str | Sequence[str],
    inputs: str,
    output: str,
    options: JobOptions = _DEFAULTS,
    echo: Callable[[str], Any] = print,
    *,
    both: bool = False,
    partner: str | None = None,
    **keys: Any,
) -> JobResult:
    """Translate the images at `inputs` with each of the translators `models`, and write them to the folder `output`.

    `inputs` is a folder, a ZIP, tar or Parquet file, an image, or a pattern of these. With `both` images are translated
    back as well, by the model `partner` of the same repository, or by the one that is known to, and the error of the
    cycle is a column. `keys` are those of the verb `translate`: `size`, `tile`, `overlap`, `black` and `white`.

    Raises:
        ServingError, BatchError: as `generate`.
    """
    there = translators([models] if isinstance(models, str) else models)
    if partner is not None and not both:
        raise BatchError("a partner is for both ways: give both")
    back = partners(there, partner) if both else []
    if unknown := keys.keys() & {"layout", "format"}:
        raise BatchError(f"a batch job takes no {', '.join(sorted(unknown))}: it has options")
    place = Storage(expanded(inputs)).uri
    check_output(place, output)
    options = _resolved(options, output)
    command = _plan("translate", there, back, keys, 1, options).model_copy(update={"place": place})
    finished = None if options.verify else _finished(output, command, options)
    if finished is not None:
        echo("the job is finished, and its inputs are not listed again: new ones need another output")
        return finished
    listing = list_inputs(place)
    count, nbytes = len(listing.entries), inputs_nbytes(listing)
    manifests = [artifact.manifest for artifact in (*there, *back)]
    size = VERBS.find("translate").request.parse(keys).resized
    listed = {
        "count": count,
        "inputs": inputs_digest(listing),
        "carried": listing.columns,
        "shard_size": options.shard_size or default_shard_size(manifests, count, options.format, nbytes, size),
    }
    return _run(command.model_copy(update=listed), listing, output, options, echo)


def _resolved(options: JobOptions, output: str) -> JobOptions:
    return dataclasses.replace(options, device=job_device(options.device, output, options.address))


def _finished(uri: str, command: Plan, options: JobOptions) -> JobResult | None:
    """Return the result of a finished job with the same command, or None. The inputs are not listed.

    `command` is the plan without what the inputs decide.

    Raises:
        BatchError: the output cannot be read, or its manifest is not of its plan.
    """
    output = Output(Storage(uri))
    try:
        first = output.plan()
        manifest = None if first is None else output.manifest(first)
    except OSError as error:
        raise BatchError(f"{output.storage.uri} cannot be read: {one_line(error)}") from error
    if first is None:
        return None
    listed = {"count": first.count, "inputs": first.inputs, "carried": first.carried}
    plan = command.model_copy(update=listed | {"shard_size": options.shard_size or first.shard_size})
    if (plan.digest(), plan.place) != (first.digest(), first.place):
        return None
    return None if manifest is None else _result(output, manifest, was_finished=True)


def _plan(
    verb: BatchVerb,
    models: Sequence[Artifact],
    back: Sequence[Artifact],
    keys: Mapping[str, Any],
    count: int,
    options: JobOptions,
) -> Plan:
    """Return the plan of a command whose device is known. Raises a ServingError if a value is not legal."""
    assert options.device != "auto", "where the workers run decides"
    manifests = [artifact.manifest for artifact in (*models, *back)]
    request = VERBS.find(verb).request.parse({**keys, "format": options.image_format})
    known = request.model_dump(mode="json", exclude={"n", "format", "layout"}, exclude_none=True)
    if isinstance(request, GenerateRequest):
        labels = class_labels(manifests[0].interface, request.labels, [0])
        if labels is not None and request.labels is not None:
            known["labels"] = int(labels[0])  # by its index, however the command names it
    FORMATS.find(options.format)
    if count < 1:
        raise BatchError(f"the number of images is {count} and must be at least 1")
    if options.shard_size is not None and options.shard_size < 1:
        raise BatchError(f"the shard size is {options.shard_size} and must be at least 1")
    return Plan(
        verb=verb,
        passes=model_passes(models, back),
        keys=known,
        count=count,
        inputs=None,
        format=options.format,
        image_format=options.image_format,
        shard_size=options.shard_size or default_shard_size(manifests, count, options.format),
        batch=rows_per_run(manifests),
        device=options.device,
        place=None,
        environment=environment(options.format, options.image_format),
    )


def _run(plan: Plan, listing: Listing, uri: str, options: JobOptions, echo: Callable[[str], Any]) -> JobResult:
    if plan.shards > MOST_SHARDS:
        raise BatchError(
            f"the job would have {plan.shards:,} shards, more than {MOST_SHARDS:,}: give a larger shard size"
        )
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
    return _result(output, manifest, was_finished)


def _result(output: Output, manifest: Mapping[str, Any], was_finished: bool) -> JobResult:
    return JobResult(output.storage.uri, manifest["images"], manifest["errors"], was_finished)


def _claim(output: Output, plan: Plan, echo: Callable[[str], Any]) -> Plan:
    """Return the plan of the output, with the places of this command."""
    first = output.claim(plan)
    if changed := plan.changed_environment(first):
        echo(f"warning: the job started with other versions, so that bytes may differ: {'; '.join(changed)}")
    return first.model_copy(update={"passes": plan.passes, "place": plan.place})


def _make_missing(
    output: Output, plan: Plan, listing: Listing, options: JobOptions, echo: Callable[[str], Any]
) -> dict[str, Any]:
    """Make the shards that have no record, and commit the job. Returns the manifest."""
    if line := left_out_line(listing.left_out):
        echo(line)
    records = {} if options.verify else output.records(plan)
    for shard in output.lost(records.values()):
        output.withdraw(shard)
        del records[shard]
    tasks = tasks_of(plan, listing, [shard for shard in range(plan.shards) if shard not in records])
    warned: set[str] = set()
    tally = Tally(plan.count, sum(len(plan.numbers(shard)) for shard in records))
    settings = WorkerSettings(plan, output.storage.uri, verify=options.verify)
    with stop_requested() as stop, ProgressDisplay(tally, Console(stderr=True), echo) as display:
        display.update()
        if tasks:
            from serving.batch.driver import Scale, run_tasks

            def show(images: int) -> None:
                tally.set_in_hand(images)
                display.update()

            scale = Scale(options.workers, options.per_gpu, options.address)
            for outcome in run_tasks(plan, tasks, settings, scale, stop, show):
                records[outcome.record.shard] = outcome.record
                tally.add(outcome)
                display.update()
                for warning in outcome.warnings - warned:
                    echo(f"warning: a worker differs from this machine, so that bytes may differ: {warning}")
                warned |= outcome.warnings
    if output.plan() is None or output.lost(records.values()):
        raise BatchError(f"files in {output.storage.uri} were removed while the job ran: start it again")
    report = {
        "models": plan.models,
        "seconds": round(tally.seconds, 3),
        "images": plan.count,
        "new_images": tally.new,
        "images_per_second": round(tally.images_per_second, 1),
        "shards": plan.shards,
        "new_shards": tally.new_shards,
        "seconds_of_stages": {stage: round(seconds, 3) for stage, seconds in sorted(tally.stages.items())},
        "left_out": len(listing.left_out),
    }
    commit(output, plan, [records[shard] for shard in range(plan.shards)], report)
    manifest = output.manifest(plan)
    assert manifest is not None
    return manifest
