"""What `zorse generate --output` and `zorse translate --output` share, and the commands `zorse batch …`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli_models import DeviceName

if TYPE_CHECKING:
    from serving.batch.job import JobOptions, JobResult

batch_group = typer.Typer(help="Look at batch jobs: generate or translate with --output.", no_args_is_help=True)

PANEL = "Batch jobs"
OutputOption = Annotated[
    str | None,
    typer.Option(rich_help_panel=PANEL, help="A folder or URI: write a batch job of any size there, exactly once."),
]
InputOption = Annotated[
    str | None,
    typer.Option(
        "--input", rich_help_panel=PANEL, help="A folder, ZIP, tar, Parquet file, or a pattern of them in quotes."
    ),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format", rich_help_panel=PANEL, help="images, webdataset (the default), parquet, or zip (as StyleGAN's)."
    ),
]
ImageFormatOption = Annotated[
    str | None, typer.Option(rich_help_panel=PANEL, help="png (the default), jpeg, webp, or npy.")
]
ShardSizeOption = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=PANEL, help="Images in a file. By default some seconds of work.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=PANEL, help="Processes. By default one for each CPU or GPU.")
]
PerGpuOption = Annotated[
    int | None, typer.Option(min=1, rich_help_panel=PANEL, help="Processes that share a GPU. By default one.")
]
AddressOption = Annotated[
    str | None, typer.Option(rich_help_panel=PANEL, help="A Ray cluster: auto, or host:port. RAY_ADDRESS counts too.")
]
MaxErrorsOption = Annotated[
    int | None, typer.Option(min=0, rich_help_panel=PANEL, help="With more bad inputs the exit code is 1. Default 0.")
]
VerifyOption = Annotated[
    bool | None,
    typer.Option("--verify", rich_help_panel=PANEL, help="Read all shards again, and repair damaged ones."),
]


def check_only_with_output(options: Mapping[str, object]) -> None:
    """Refuse options of batch jobs, by their names on the command line, in a command without --output.

    Raises:
        typer.BadParameter: one of them is given.
    """
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"--{name.replace('_', '-')} needs --output")


def job_options(device: DeviceName, options: Mapping[str, Any]) -> JobOptions:
    """Return the options of a job; those that are None have their defaults."""
    from serving.batch.job import JobOptions

    return JobOptions(device=device.value, **{name: value for name, value in options.items() if value is not None})


def finish(result: JobResult, max_errors: int | None) -> None:
    """Print what a finished job has. Exits with 1 if it has more bad inputs than `max_errors`."""
    before = ", as before" if result.was_finished else ""
    typer.echo(f"{result.images:,} images in {result.output}{before}")
    if result.errors:
        typer.echo(f"{result.errors:,} inputs were bad: see {result.output}/errors.jsonl", err=True)
    if result.errors > (max_errors or 0):
        raise typer.Exit(1)


def echo(line: str) -> None:
    """Print a line on standard error."""
    typer.echo(line, err=True)


@batch_group.command()
def status(
    output: Annotated[str, typer.Argument(help="The folder or URI of --output.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how far a batch job is, from its output alone. The exit code is 1 unless it is finished."""
    from serving.batch.status import job_status

    job = job_status(output)
    if as_json:
        from zorse_common.tables import print_json

        print_json(asdict(job))
    else:
        typer.echo(f"{job.state}: {job.verb} with {job.models} to {job.format} in {job.output}")
        typer.echo(f"{job.images_done:,} of {job.images:,} images, {job.shards_done:,} of {job.shards:,} shards")
        if job.errors:
            typer.echo(f"{job.errors:,} inputs were bad: see errors.jsonl")
    if job.state != "finished":
        raise typer.Exit(1)
