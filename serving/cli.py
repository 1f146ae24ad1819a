"""The commands of the serving stage. Those that call a model have files of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from serving.cli_call import call
from serving.cli_generators import arithmetic, generate, interpolate
from serving.cli_models import DeviceName, DeviceOption, KeyOption
from serving.cli_translate import translate

if TYPE_CHECKING:
    from serving.config import ModelSummary


def register(app: typer.Typer) -> None:
    """Add the commands of this stage to `app`."""
    app.command()(serve)
    app.command()(generate)
    app.command()(translate)
    app.command()(call)
    app.command()(verify)


def register_latent(group: typer.Typer) -> None:
    """Add `interpolate` and `arithmetic` to `group`, the commands of `zorse latent`."""
    group.command()(interpolate)
    group.command()(arithmetic)


def serve(
    repository: Annotated[str, typer.Argument(help="The folder or URI of artifacts: REPOSITORY/MODEL/VERSION/.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on. An address other than loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    alias: Annotated[
        str | None, typer.Option(help="Serve the versions of this alias, such as stable.", show_default="the newest")
    ] = None,
    device: DeviceOption = DeviceName.AUTO,
    replicas: Annotated[int, typer.Option(min=1, help="Processes per model.")] = 1,
    max_batch: Annotated[int, typer.Option(min=1, help="The most images that are run together.")] = 16,
    max_batch_pixels: Annotated[
        int, typer.Option(min=1, help="The most pixels of source images that are run together; limits memory.")
    ] = 2**20,
    api_key: KeyOption = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept requests of other machines without a key.")
    ] = False,
    high_throughput: Annotated[
        bool, typer.Option("--high-throughput", help="Put HAProxy in front. Its ports are open to other machines.")
    ] = False,
) -> None:
    """Serve the models of a repository on Ray Serve until Ctrl-C."""
    from serving.app import serve_repository
    from serving.config import Batching, ServerSettings

    settings = ServerSettings(
        repository=repository,
        alias=alias,
        host=host,
        port=port,
        device=device.value,
        replicas=replicas,
        batching=Batching(max_size=max_batch, max_pixels=max_batch_pixels),
        api_key=api_key,
        insecure=insecure,
        high_throughput=high_throughput,
    )
    typer.echo(f"starting the models of {repository} …")
    address = f"[{host}]" if ":" in host else host
    serve_repository(settings, lambda models: _announce(f"http://{address}:{port}", models))
    typer.echo("stopped")


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


def _announce(url: str, models: list[ModelSummary]) -> None:
    width = max(len(model.name) for model in models)
    for model in models:
        verb = "generate" if model.kind == "generator" else "translate"
        typer.echo(f"{model.name:<{width}}  {url}/v2/models/{model.name}/{verb}")
    typer.echo(f"{'docs':<{width}}  {url}/docs")
