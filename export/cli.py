"""`zorse export`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic_core import from_json

from export import models_cli
from export.models_cli import AsJson, mebibytes, psnr_text
from zorse_common.tables import print_json, print_table

_RANGES = {"uint8": (0.0, 255.0), "uint16": (0.0, 65535.0), "float32": (-1.0, 1.0)}


def register(app: typer.Typer) -> None:
    """Add this package's commands to `app`."""
    app.command("export")(export)
    models_cli.register(app)


Origin = Annotated[
    str,
    typer.Option(
        "--from",
        metavar="FORMAT",
        help="The format of PLACE: snapshot, onnx or an importer; auto decides by the file; others list them.",
    ),
]
Direction = Annotated[
    Literal["AtoB", "BtoA"] | None, typer.Option(help="The direction that a file's name does not say.")
]
Figures = Annotated[Path | None, typer.Option(help="A JSON file that `zorse evaluate` wrote, for the manifest.")]
ImagesRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="BLACK WHITE", help="The values of these in images of more than 8 bits."),
]
MaxSize = Annotated[
    int | None,
    typer.Option(min=1, help="The largest height and width of a translator.", show_default="512 or twice training's"),
]
Buckets = Annotated[
    list[str] | None, typer.Option(metavar="SHAPE", help="An input shape to prove with fixed axes, as 8x256x256x3.")
]
ValueRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="The stored values of black and white.", show_default="the dtype's"),
]
InputRange = Annotated[
    tuple[float, float] | None,
    typer.Option(metavar="LOW HIGH", help="The input values of an ONNX translator for black and white."),
]
OutputRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        metavar="LOW HIGH",
        help="The output values of an ONNX model for black and white.",
        show_default="those of the input",
    ),
]


def export(
    place: Annotated[str, typer.Argument(help="A run, one of its snapshots, or with --from a foreign file.")],
    to: Annotated[str, typer.Option("--to", metavar="REPOSITORY", help="The folder or URI to publish in.")],
    origin: Origin = "auto",
    name: Annotated[str | None, typer.Option(help="The artifacts' name instead of the source's.")] = None,
    direction: Direction = None,
    target: Annotated[str, typer.Option(help="The export target; any other word lists them.")] = "onnx",
    images: Annotated[
        str | None, typer.Option(help="Real images to prove and calibrate with: a folder or zip.")
    ] = None,
    images_range: ImagesRange = None,
    opset: Annotated[int | None, typer.Option(min=1, help="The ONNX operator set.", show_default="20")] = None,
    max_size: MaxSize = None,
    bucket: Buckets = None,
    pixels: Annotated[Literal["uint8", "uint16", "float32"], typer.Option(help="How images are stored.")] = "uint8",
    value_range: ValueRange = None,
    provider: Annotated[Literal["cuda", "cpu"], typer.Option(help="What every node must run on.")] = "cuda",
    input_range: InputRange = None,
    output_range: OutputRange = None,
    layout: Annotated[Literal["NCHW", "NHWC"], typer.Option(help="The order of an ONNX file's axes.")] = "NCHW",
    mean: Annotated[str, typer.Option(help="Subtracted from the input, for all channels or each: 0.5,0.5,0.5.")] = "0",
    std: Annotated[str, typer.Option(help="What the input is then divided by.")] = "1",
    size_multiple: Annotated[int, typer.Option(min=1, help="Heights and widths are multiples of this.")] = 1,
    licence: Annotated[str | None, typer.Option(help="A note for the manifest on what may be done with it.")] = None,
    metrics: Figures = None,
    as_json: AsJson = False,
) -> None:
    """Turn generators into ONNX artifacts, each proved against its source before any is published."""
    # Imported here, since torch takes a second to import and `zorse --help` should not wait for it.
    from rich.console import Console

    from export.declared import Declared
    from export.graph import DEFAULT_OPSET
    from export.pipeline import export as run
    from export.pixels import Pixels

    console = Console(stderr=as_json)
    means, stds = _numbers("--mean", mean), _numbers("--std", std)
    declared = Declared(input_range, output_range, layout, means, stds, size_multiple)
    artifacts = run(
        place,
        to,
        origin=origin,
        name=name,
        direction=direction,
        target=target,
        declared=declared,
        images=images,
        images_range=images_range,
        opset=opset or DEFAULT_OPSET,
        max_size=max_size,
        buckets=[_shape(text) for text in bucket or []],
        pixels=Pixels(pixels, *(value_range or _RANGES[pixels])),
        provider=provider,
        licence=licence,
        metrics=_figures(metrics) if metrics else {},
        report=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
    )
    _print_proofs(artifacts, as_json)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(f"--bucket {text} is no shape: give one such as 8x256x256x3, or 8x100 for latents")
    return tuple(map(int, parts))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, text.split(",")))
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} {text} are no numbers: give one, or one for each channel as 0.5,0.5,0.5"
        ) from error


def _figures(path: Path) -> dict[str, float]:
    try:
        data = from_json(path.read_text(encoding="utf-8"))
        figures = {str(name): float(value) for name, value in data.items() if type(value) in (int, float)}
        if not all(map(math.isfinite, figures.values())):
            raise ValueError("a figure is not finite")
        return figures
    except (OSError, ValueError, AttributeError, OverflowError) as error:
        raise typer.BadParameter(f"--metrics {path} is not a JSON object of figures ({error})") from error


def _print_proofs(artifacts: list[str], as_json: bool) -> None:
    from export.repository import Repository

    proofs: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    for artifact in artifacts:
        repository, model, version = artifact.rsplit("/", 2)
        manifest = Repository(repository).manifest(model, int(version))
        proof, target, nodes = manifest.proof, manifest.target, manifest.nodes
        fields = {"place": artifact, "model": model, "version": int(version), "target": target, "nodes": nodes}
        differences = {"max_grey_diff": proof.max_grey_diff, "p999_grey_diff": proof.p999_grey_diff}
        proofs.append(fields | {"bytes": manifest.nbytes} | differences | {"psnr": proof.psnr})
        levels = (f"{difference:g}" for difference in differences.values())
        rows.append((model, version, target, str(nodes), mebibytes(manifest.nbytes), *levels, psnr_text(proof)))
    if as_json:
        print_json(proofs)
    else:
        titles = ("model", "version", "target", "nodes", "size", "max grey difference", "99.9 % within", "PSNR")
        print_table(titles, rows)
