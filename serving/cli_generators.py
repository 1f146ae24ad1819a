"""The commands on generators: `zorse generate`, `zorse latent interpolate` and `zorse latent arithmetic`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from serving import cli_batch
from serving.cli_endings import ANIMATED, keys_of_ending
from serving.cli_models import DeviceName, DeviceOption, KeyOption, ModelArgument, open_model, write_file

_Label = Annotated[str | None, typer.Option(help="The class of all images of a conditional generator: name or index.")]
_Seed = Annotated[int, typer.Option(min=0, help="The seed of the latents.")]


class Method(StrEnum):
    """How latents are interpolated."""

    SLERP = "slerp"
    LERP = "lerp"


def generate(
    model: ModelArgument,
    out: Annotated[
        Path | None, typer.Option(help="The file to write: .png, .jpg, .webp (one grid), .zip, or .npy.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "--count", min=1, help="How many images.")] = 16,
    seed: _Seed = 0,
    first: Annotated[int, typer.Option(min=0, help="The number of the first image.")] = 0,
    truncation: Annotated[float, typer.Option(help="Above 0, at most 1: below 1, images vary less.")] = 1.0,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A class of a conditional generator, by name or index: one for all images, or one for each."),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
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
    """Write generated images: as a grid, an archive or an array with --out, any number of them with --output."""
    keys: dict[str, object] = {"seed": seed, "first": first, "truncation": truncation, "labels": label or None}
    options = {"format": shard_format, "image_format": image_format, "shard_size": shard_size, "workers": workers}
    options |= {"per_gpu": per_gpu, "address": address, "verify": verify}
    if output is None:
        cli_batch.check_only_with_output(options | {"max_errors": max_errors})
        if out is None:
            raise typer.BadParameter("give --out FILE, or --output FOLDER for a batch job")
        write_file(out, open_model(model, device, api_key)("generate", None, n=n, **keys, **keys_of_ending(out)))
        typer.echo(f"{n} images of seed {seed} in {out}")
        return
    if out is not None:
        raise typer.BadParameter("give --out or --output, not both")
    from serving.batch import job

    job_options = cli_batch.job_options(device, options)
    cli_batch.finish(job.generate(model, output, n, job_options, cli_batch.echo, **keys), max_errors)


def interpolate(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write: a strip (.png, .jpg, .webp), .gif, .zip or .npy.")],
    first: Annotated[int, typer.Option(min=0, help="The number of the image to begin with.")] = 0,
    last: Annotated[int, typer.Option(min=0, help="The number of the image to end with.")] = 1,
    number: Annotated[
        list[int] | None,
        typer.Option(min=0, help="The number of an image to pass; repeat it. Replaces --first, --last."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Images from one to the next, both included.")] = 8,
    method: Annotated[Method, typer.Option(help="On a sphere, or on straight lines.")] = Method.SLERP,
    seed: _Seed = 0,
    label: _Label = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Write the images on the way between images of a seed, by interpolation of their latents."""
    stops = number or [first, last]
    keys: dict[str, object] = {"numbers": stops, "steps": steps, "method": method.value, "seed": seed, "label": label}
    keys |= keys_of_ending(out, ANIMATED)
    write_file(out, open_model(model, device, api_key)("interpolate", None, **keys))
    typer.echo(f"images {', '.join(map(str, stops))} of seed {seed}, {steps} steps from each to the next, in {out}")


def arithmetic(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write: .png, .jpg, .webp, .zip or .npy.")],
    a: Annotated[list[int] | None, typer.Option(min=0, help="An image to add; repeat it for a mean.")] = None,
    b: Annotated[list[int] | None, typer.Option(min=0, help="An image to subtract; repeat it for a mean.")] = None,
    c: Annotated[list[int] | None, typer.Option(min=0, help="Another image to add; repeat it for a mean.")] = None,
    term: Annotated[
        list[str] | None,
        typer.Option(metavar="WEIGHT:NUMBER", help="A weight and an image, as 0.5:7; repeat it. Replaces a, b, c."),
    ] = None,
    seed: _Seed = 0,
    label: _Label = None,
    only_result: Annotated[bool, typer.Option("--only-result", help="Leave out the images of the terms.")] = False,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Write the image of a sum of latents, a - b + c or a weighted one, after the images of its terms."""
    keys: dict[str, object] = {"a": a or None, "b": b or None, "c": c or None}
    text = " ".join(f"{sign}{_mean(numbers or [])}" for sign, numbers in (("", a), ("- ", b), ("+ ", c)))
    if term:
        weights, numbers = _terms(term)
        keys |= {"weights": weights, "numbers": numbers}
        text = " ".join(f"{weight:+g}·{number}" for weight, number in zip(weights, numbers, strict=True))
    keys |= {"seed": seed, "label": label, "only_result": only_result, **keys_of_ending(out)}
    write_file(out, open_model(model, device, api_key)("arithmetic", None, **keys))
    typer.echo(f"{text} of seed {seed} in {out}")


def _terms(texts: list[str]) -> tuple[list[float], list[int]]:
    """Return the weights and the numbers of terms such as "0.5:7"."""
    weights, numbers = [], []
    for text in texts:
        weight, _, number = text.partition(":")
        try:
            weights.append(float(weight))
            numbers.append(int(number))
        except ValueError as error:
            raise typer.BadParameter(f"{text!r} is not of the form WEIGHT:NUMBER") from error
    return weights, numbers


def _mean(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"mean({', '.join(map(str, numbers))})"
