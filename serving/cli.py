"""The commands of the serving stage. Those that call a model have files of their own."""

from __future__ import annotations

from typing import Annotated

import typer

from serving.cli_batch import batch_group
from serving.cli_bench import bench_serve
from serving.cli_call import call
from serving.cli_cycle import cycle
from serving.cli_generators import arithmetic, generate, interpolate
from serving.cli_models import DeviceName, DeviceOption
from serving.cli_serve import serve_group
from serving.cli_translate import translate


def register(app: typer.Typer) -> None:
    """Add the commands of this stage to `app`."""
    app.add_typer(serve_group, name="serve")
    app.command()(generate)
    app.command()(translate)
    app.command()(cycle)
    app.command()(call)
    app.command()(verify)
    app.add_typer(batch_group, name="batch")


def register_latent(group: typer.Typer) -> None:
    """Add `interpolate` and `arithmetic` to `group`, the commands of `zorse latent`."""
    group.command()(interpolate)
    group.command()(arithmetic)


def register_bench(group: typer.Typer) -> None:
    """Add `serve` to `group`, the commands of `zorse bench`."""
    group.command("serve")(bench_serve)


def verify(
    artifact: Annotated[str, typer.Argument(help="An artifact or model folder or URI, or MODEL@ALIAS.")],
    device: DeviceOption = DeviceName.AUTO,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the files, the manifest and the golden sample of an artifact again, where it is stored."""
    from serving.engine import resolve_device
    from serving.selftest import verify_artifact

    resolved = resolve_device(device.value)
    result = verify_artifact(artifact, resolved)
    manifest = result.artifact.manifest
    if as_json:
        from zorse_common.tables import print_json

        checked = {"samples": result.samples, "buckets": result.buckets, "max_grey_diff": result.max_grey_diff}
        subject = {"model": manifest.name, "version": manifest.version, "target": manifest.target, "device": resolved}
        print_json(subject | checked | {"seconds": result.seconds})
        return
    typer.echo(f"{manifest.name} version {manifest.version} ({manifest.target}) is what was proved")
    typer.echo(f"files: {len(manifest.files)} whole; fields: as the model's own")
    typer.echo(
        f"golden sample: {result.samples} inputs; buckets: {result.buckets}; "
        f"at most {result.max_grey_diff:g} grey levels apart on {resolved}"
    )
    start, first, second = (f"{seconds * 1000:.0f} ms" for seconds in result.seconds.values())
    typer.echo(f"session start {start}, first inference {first}, second {second}")
