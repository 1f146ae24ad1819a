"""The command `zorse translate`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from serving import cli_batch
from serving.cli_models import DeviceName, DeviceOption, KeyOption, ModelArgument, OpenModel, open_model, write_file
from zorse_common.errors import one_line, printable


def translate(
    model: ModelArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGES | MODELS]",
            help="The image files, and folders of them, to translate; in a batch job, more models.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write into; no file is replaced.")] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="BLACK WHITE", help="The values of black and white in images of more than 8 bits."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Resize images to this height and width first, as training does."),
    ] = None,
    tile: Annotated[
        bool, typer.Option("--tile", help="Translate images that are larger than the model takes in tiles.")
    ] = False,
    overlap: Annotated[int | None, typer.Option(min=0, help="How many pixels tiles share at least.")] = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
    both: Annotated[
        bool | None,
        typer.Option("--both", rich_help_panel=cli_batch.PANEL, help="Translate back too, and measure the error."),
    ] = None,
    partner: Annotated[
        str | None,
        typer.Option(rich_help_panel=cli_batch.PANEL, help="The model that translates back, if it is not known."),
    ] = None,
    inputs: cli_batch.InputOption = None,
    output: cli_batch.OutputOption = None,
    shard_format: cli_batch.FormatOption = None,
    image_format: cli_batch.ImageFormatOption = None,
    shard_size: cli_batch.ShardSizeOption = None,
    workers: cli_batch.WorkersOption = None,
    per_gpu: cli_batch.PerGpuOption = None,
    address: cli_batch.AddressOption = None,
    max_errors: cli_batch.MaxErrorsOption = None,
    verify: cli_batch.VerifyOption = None,
) -> None:
    """Translate image files, and those in folders. Each result has the name of its image, with the ending .png.

    Results that exist are kept, so that the same command continues after an interruption. An image that cannot be
    translated is reported and left out, and the exit code is 1. With --input and --output any number of images is
    translated by several processes or a cluster.
    """
    black, white = value_range or (None, None)
    keys: dict[str, Any] = {"black": black, "white": white, "size": size}
    keys |= {"tile": tile or None, "overlap": overlap}
    options = {"format": shard_format, "image_format": image_format, "shard_size": shard_size, "workers": workers}
    options |= {"per_gpu": per_gpu, "address": address, "verify": verify}
    _check_range(value_range)
    if output is None:
        others = {"input": inputs, "max_errors": max_errors, "both": both, "partner": partner}
        cli_batch.check_only_with_output(options | others)
        if not images or out is None:
            raise typer.BadParameter("give IMAGES and --out FOLDER, or --input and --output for a batch job")
        _translate_files([Path(image) for image in images], out, lambda: open_model(model, device, api_key), keys)
        return
    if inputs is None or out is not None:
        raise typer.BadParameter("a batch job has --input and --output, and neither IMAGES nor --out")
    from serving.batch import job

    models, job_options = [model, *(images or [])], cli_batch.job_options(device, options)
    result = job.translate(
        models, inputs, output, job_options, cli_batch.echo, both=bool(both), partner=partner, **keys
    )
    cli_batch.finish(result, max_errors)


def _check_range(value_range: tuple[float, float] | None) -> None:
    from zorse_common.images import check_range

    try:
        check_range(value_range)
    except ValueError as error:
        raise typer.BadParameter(f"--value-range: {error}") from error


def _translate_files(images: list[Path], out: Path, opener: Callable[[], OpenModel], keys: dict[str, Any]) -> None:
    """Translate the image files that have no result yet. Exits with 1 if one fails."""
    from rich.console import Console
    from rich.progress import track

    from zorse_common.errors import ZorseError

    targets = _targets(images, out)
    missing = {path: target for path, target in targets.items() if not target.exists()}
    done, failed, console = len(targets) - len(missing), 0, Console(stderr=True)
    opened = opener() if missing else None
    for path, target in track(missing.items(), "translating", console=console, disable=len(missing) < 2):
        assert opened is not None
        try:
            write_file(target, opened("translate", path.read_bytes(), **keys))
        except (ZorseError, OSError) as error:
            failed += 1
            typer.echo(f"error: {printable(path)}: {one_line(error)}", err=True)
        else:
            typer.echo(f"{printable(path)} → {printable(target)}")
    if len(targets) > 1 or failed or done:
        typer.echo(
            f"{len(missing) - failed} of {len(targets)} images translated, {done} existed already, {failed} failed"
        )
    if failed:
        raise typer.Exit(1)


def _targets(images: list[Path], out: Path) -> dict[Path, Path]:
    """Return the file to write for each image; images of a folder keep their place in it."""
    from serving.errors import ImageError, OutputError
    from zorse_common.files import ImageFiles, left_out_line
    from zorse_common.result_names import result_names

    targets: dict[Path, Path] = {}
    for path in images:
        if path.is_dir():
            files = ImageFiles(str(path))
            if path.resolve() == out.resolve():
                raise OutputError(f"the results in {out} would be taken for images the next time: choose another --out")
            # The results of an earlier call are not images to translate.
            names = [name for name in files.names if out.resolve() not in (path / name).resolve().parents]
            if not names:
                raise ImageError(f"there are no image files in {path}")
            results = result_names(names, "png")
            targets |= {path / name: out / f"{result}.png" for name, result in zip(names, results, strict=True)}
            if line := left_out_line(files.left_out):
                typer.echo(f"{path}: {line}", err=True)
        elif path.is_file():
            targets[path] = out / f"{path.stem}.png"
        else:
            raise ImageError(f"there is no image file at {path}")
    sources: dict[Path, Path] = {}
    originals = {os.path.realpath(path) for path in targets}
    for path, target in targets.items():
        first = sources.setdefault(target, path)
        if first != path:
            raise OutputError(f"{first} and {path} would both become {target}: use a different --out for each")
        if target.exists() and os.path.realpath(target) in originals:
            raise OutputError(f"{target} is one of the images and would be taken for its result: choose another --out")
    return targets
