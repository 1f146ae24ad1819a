"""`zorse export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console


def register(app: typer.Typer) -> None:
    """Add this package's commands to `app`."""
    app.command("export")(export)


def export(
    snapshot: Annotated[str, typer.Argument(metavar="PLACE", help="A run, or one of its snapshots.")],
    to: Annotated[str, typer.Option("--to", metavar="REPOSITORY", help="The folder to publish the artifacts in.")],
    name: Annotated[str | None, typer.Option(help="The artifacts' name instead of the run's.")] = None,
    target: Annotated[str, typer.Option(help="What to convert to.")] = "onnx",
    images: Annotated[
        str | None, typer.Option(help="A folder or zip of real images, to prove translators on them too.")
    ] = None,
) -> None:
    """Turn a run's generators into ONNX artifacts, each proved against torch before any is published."""
    # Here, since importing torch takes a second that `zorse --help` need not wait for.
    from rich.console import Console

    from export.pipeline import export as run

    console = Console()
    artifacts = run(
        snapshot, to, name=name, target=target, images=images, report=lambda line: console.print(line, highlight=False)
    )
    _print_table(artifacts, console)


def _print_table(artifacts: list[Path], console: Console) -> None:
    import onnx
    from rich.table import Table

    from export.manifest import MODEL_FILE, read_manifest

    table = Table("model", "version", "nodes", "size", "max grey difference", "PSNR")
    for artifact in artifacts:
        manifest = read_manifest(artifact)
        psnr = manifest.proof.psnr
        table.add_row(
            manifest.name,
            str(manifest.version),
            str(len(onnx.load(artifact / MODEL_FILE).graph.node)),
            f"{manifest.nbytes / 2**20:.1f} MiB",
            str(manifest.proof.max_grey_diff),
            "identical" if psnr is None else f"{psnr:.1f} dB",
        )
    console.print(table)
