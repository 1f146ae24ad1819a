"""The commands on generators: `zorse generate`, `zorse latent interpolate` and `zorse latent arithmetic`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from serving.cli_models import DeviceName, DeviceOption, KeyOption, ModelArgument, open_model, write_file

_FORMATS: Mapping[str, str] = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
"""The image format for each ending of a file's name."""
_ANIMATED = {**_FORMATS, ".gif": "gif"}
_Label = Annotated[str | None, typer.Option(help="The class of all images of a conditional generator: name or index.")]
_Seed = Annotated[int, typer.Option(min=0, help="The seed of the latents.")]


def generate(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The image file to write: .png or .jpg.")],
    n: Annotated[int, typer.Option(min=1, help="How many images, in one grid.")] = 16,
    seed: _Seed = 0,
    label: Annotated[
        list[str] | None,
        typer.Option(help="A class of a conditional generator, by name or index: one for all images, or one for each."),
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Write a grid of generated images."""
    file_format = _image_format(out)
    opened = open_model(model, device, api_key)
    write_file(out, opened("generate", n=n, seed=seed, labels=label or None, format=file_format))
    typer.echo(f"{n} images of seed {seed} in {out}")


def interpolate(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The file to write: a strip (.png, .jpg) or an animation (.gif).")],
    first: Annotated[int, typer.Option(min=0, help="The number of the image to begin with.")] = 0,
    last: Annotated[int, typer.Option(min=0, help="The number of the image to end with.")] = 1,
    number: Annotated[
        list[int] | None,
        typer.Option(min=0, help="The number of an image to pass; repeat it. Replaces --first, --last."),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Images from one to the next, both included.")] = 8,
    seed: _Seed = 0,
    label: _Label = None,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Write the images on the way between images of a seed, by spherical interpolation of their latents."""
    stops, file_format = number or [first, last], _image_format(out, _ANIMATED)
    opened = open_model(model, device, api_key)
    write_file(out, opened("interpolate", numbers=stops, steps=steps, seed=seed, label=label, format=file_format))
    typer.echo(f"images {', '.join(map(str, stops))} of seed {seed}, {steps} steps from each to the next, in {out}")


def arithmetic(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="The image file to write: .png or .jpg.")],
    a: Annotated[list[int], typer.Option(min=0, help="The number of an image to add; repeat it for a mean.")],
    b: Annotated[list[int], typer.Option(min=0, help="The number of an image to subtract; repeat it for a mean.")],
    c: Annotated[list[int], typer.Option(min=0, help="The number of another image to add; repeat it for a mean.")],
    seed: _Seed = 0,
    label: _Label = None,
    only_result: Annotated[bool, typer.Option("--only-result", help="Leave out the images of a, b and c.")] = False,
    device: DeviceOption = DeviceName.AUTO,
    api_key: KeyOption = None,
) -> None:
    """Write the image of the latent a - b + c, after those of a, b and c, each the mean latent of images of a seed."""
    layout, file_format = "result" if only_result else "strip", _image_format(out)
    opened = open_model(model, device, api_key)
    write_file(out, opened("arithmetic", a=a, b=b, c=c, seed=seed, label=label, layout=layout, format=file_format))
    terms = " ".join(f"{sign}{_mean(numbers)}" for sign, numbers in (("", a), ("- ", b), ("+ ", c)))
    typer.echo(f"{terms} of seed {seed} in {out}")


def _mean(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"mean({', '.join(map(str, numbers))})"


def _image_format(path: Path, formats: Mapping[str, str] = _FORMATS) -> str:
    """Return the format of the file `path` to write.

    Raises:
        OutputError: the ending of the name is not in `formats`.
    """
    from serving.errors import OutputError

    if path.suffix.lower() not in formats:
        raise OutputError(f"{path} cannot be written: give a name that ends in {', '.join(formats)}")
    return formats[path.suffix.lower()]
