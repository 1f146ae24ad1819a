"""The trainer's commands: train, evaluate, images, runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zorse_common.tables import print_json, print_table

if TYPE_CHECKING:
    from trainer.run_config import RunConfig

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as run.workers=2.", show_default=False)]
ConfigFile = Annotated[str, typer.Argument(help="A YAML file, or the name of a shipped config.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the trainer's commands to `app`."""
    app.command()(train)
    app.command()(evaluate)
    app.command()(images)
    runs = typer.Typer(no_args_is_help=True, help="List, show and compare runs.")
    runs.command("list")(list_runs)
    runs.command("show")(show_run)
    runs.command("compare")(compare_runs)
    app.add_typer(runs, name="runs")


def train(
    config: ConfigFile,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Build, check and measure, but do not train.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the run's newest good checkpoint.")] = False,
    allow_new_data: Annotated[
        bool, typer.Option("--allow-new-data", help="Resume although the training images were changed.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A running Ray cluster: auto, or host:port of its head.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result of --dry-run as JSON.")] = False,
) -> None:
    """Train a GAN or a CycleGAN on the workers of a Ray cluster.

    SIGTERM or Ctrl-C stops the run after a checkpoint, with exit code 75. The same command with --resume continues it.
    """
    if as_json and not dry_run:
        raise typer.BadParameter("--json needs --dry-run; zorse runs show --json describes a run")
    run = _load(config, [*(overrides or []), *(["run.allow_new_data=true"] if allow_new_data else [])])
    _show_differences(run, config)
    if dry_run:
        _show_dry_run(run, as_json)
    else:
        _train(run, resume, address)


def evaluate(
    images: Annotated[str, typer.Argument(help="A folder or zip of images.", show_default=False)],
    metric: Annotated[str, typer.Argument(help="The metric's name.", show_default=False)],
    keys: Annotated[list[str] | None, typer.Argument(help="The metric's keys, as key=value.")] = None,
) -> None:
    """Score a folder of images and print the figures as JSON."""
    from omegaconf import OmegaConf

    from trainer import registry
    from trainer.config_files import parse_overrides
    from trainer.evaluate import evaluate as score

    section = OmegaConf.to_container(parse_overrides([*(keys or []), f"type={metric}"]))
    typer.echo(json.dumps(score(images, registry.resolve("metric", section)), indent=2))


def images(
    config: ConfigFile,
    to: Annotated[Path, typer.Option(help="The folder to write to.", show_default=False)],
    overrides: Overrides = None,
    count: Annotated[int, typer.Option(min=1, help="Images of each domain.")] = 64,
) -> None:
    """Write a config's held-out images as PNG files, to translate and to compare with."""
    from trainer.evaluate import write_held_out

    written, skipped = write_held_out(_load(config, overrides or []), to, count)
    for line in skipped:
        typer.echo(line, err=True)
    typer.echo(f"{len(written)} images in {to}" + (f", {len(skipped)} files could not be read" if skipped else ""))


def list_runs(
    folder: Annotated[str, typer.Argument(help="The folder or URI in which the runs' folders are.")] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the runs of a folder, the newest first."""
    from datetime import UTC, datetime

    from trainer.history import find_runs
    from trainer.run_summary import format_duration, summary_data, summary_text

    runs = find_runs(folder)
    if as_json:
        print_json([summary_data(run) for run in runs])
        return
    now = datetime.now(UTC)
    rows = [
        (
            run.name,
            run.state,
            run.task or "",
            summary_text(run)["images seen"],
            summary_text(run).get("images/s", ""),
            "  ".join(f"{name} {value:.3g}" for name, value in run.figures.items()),
            format_duration(now - run.time) if run.time else "",
        )
        for run in runs
    ]
    print_table(("run", "state", "task", "images seen", "images/s", "last figures", "age"), rows)


def show_run(
    run: Annotated[str, typer.Argument(help="The run's folder or URI.", show_default=False)],
    report: Annotated[bool, typer.Option("--report", help="Write report.html again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a run's state, its newest figures, its events and the config keys that are not at their defaults."""
    from trainer.history import find_run
    from trainer.report.page import REPORT_FILE, write_report
    from trainer.run_summary import format_time, non_default_keys, summary_data, summary_text

    history = find_run(run)
    if report:
        write_report(history.storage)
    events = [(format_time(event.time), event.images, event.message) for event in history.events]
    if as_json:
        records = [dict(zip(("time", "images", "event"), event, strict=True)) for event in events]
        print_json(summary_data(history) | {"events": records, "config": history.config})
        return
    uri, has_report = history.storage.uri, history.storage.exists(REPORT_FILE)
    rows = {"state": history.state} | ({"reason": history.reason} if history.reason else {}) | summary_text(history)
    rows["report"] = f"{uri}/{REPORT_FILE}" if has_report else "none yet: --report writes it"
    print_table(("run", uri), list(rows.items()))
    print_table(("newest figure", "value"), [(name, f"{value:.4g}") for name, value in history.figures.items()])
    newest = [(time, f"{images:,}", message) for time, images, message in events[-20:]]
    print_table(("time (UTC)", "images", "event"), newest)
    print_table(("key", "value", "default"), non_default_keys(history.config))


def compare_runs(
    runs: Annotated[list[str], typer.Argument(help="The runs' folders or URIs, two or more.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Show the config keys in which runs differ, and their figures side by side."""
    from trainer.history import find_run
    from trainer.run_summary import differing_keys, format_value, side_by_side, summary_data

    if len(runs) < 2:
        raise typer.BadParameter("name two runs or more")
    histories = [find_run(run) for run in runs]
    keys = differing_keys(histories)
    if as_json:
        print_json({"config": keys, "runs": [summary_data(run) for run in histories]})
        return
    print_table(("key", *runs), [(key, *map(format_value, values)) for key, values in keys.items()])
    print_table(("figure", *runs), [(name, *values) for name, values in side_by_side(histories).items()])


def _load(config: str, overrides: list[str]) -> RunConfig:
    """Return the typed config of a file or shipped name with overrides."""
    from trainer.config_files import find_config, load_config

    return load_config(find_config(config), overrides)


def _show_differences(config: RunConfig, name: str) -> None:
    """Print the keys whose value is not the one in the file: overrides and defaults."""
    import yaml
    from rich.console import Console

    from trainer.config_files import differences, find_config

    written = yaml.safe_load(find_config(name).read_text(encoding="utf-8"))
    console = Console(stderr=True, highlight=False)
    for line in differences(config.model_dump(mode="json"), written):
        console.print(line, style="dim" if line.endswith("(default)") else "yellow", markup=False)


def _show_dry_run(config: RunConfig, as_json: bool) -> None:
    from dataclasses import asdict

    from trainer.dryrun import dry_run
    from trainer.tasks.build import check_fit

    check_fit(config)
    sizes = dry_run(config)
    if as_json:
        print_json(asdict(sizes))
        return
    rows = [(network.name, network.architecture, f"{network.parameters:,}") for network in sizes.networks]
    print_table(("network", "architecture", "parameters"), rows)
    shapes = ", ".join(f"{domain} {list(shape)}" for domain, shape in sizes.image_shapes.items())
    typer.echo(f"batch of a worker: {shapes}, {config.run.workers} workers")
    typer.echo(
        f"memory of a worker: about {sizes.state_bytes / 2**20:.0f} MiB of weights, gradients, moments and averages "
        f"and {sizes.activation_bytes / 2**20:.0f} MiB of activations"
    )
    typer.echo("one step on zeros: " + ", ".join(f"{name} {value:.3f}" for name, value in sizes.losses.items()))


def _train(config: RunConfig, resume: bool, address: str | None) -> None:
    from rich.console import Console

    from trainer.progress import ProgressBar
    from trainer.run import train as run

    console = Console(stderr=True)
    with ProgressBar(config.run.total_images, console) as bar:
        place = run(config, show=bar.show, resume=resume, address=address)
    console.print(f"trained: {place}")
