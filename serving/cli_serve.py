"""The command `zorse serve`, which serves by default and has the commands `config`, `status` and `key`."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from serving.cli_models import DeviceName, DeviceOption, KeyOption

if TYPE_CHECKING:
    from serving.config import ModelSummary, ServerSettings
    from serving.status import ModelStatus, ServerStatus

_DEFAULT = "serve"
"""The name of the command that is called where no other is named. It is hidden."""


class ProxyName(StrEnum):
    """The program in front of the replicas."""

    AUTO = "auto"
    HAPROXY = "haproxy"
    RAY = "ray"


class _ServeGroup(TyperGroup):
    """The group `serve`, whose first word is the name of a command or the first argument of the command to serve."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the default command unless the first word is another one's name or asks for help."""
        if not args or args[0] not in {*self.commands, "--help"} - {_DEFAULT}:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the command, without a name if it is the default one: users do not write its name."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == _DEFAULT else name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help of the default command, and then the other commands."""
        default = self.commands[_DEFAULT]
        default.format_help(type(ctx)(default, info_name=ctx.info_name, parent=ctx.parent), formatter)
        super().format_help(ctx, formatter)


serve_group = typer.Typer(cls=_ServeGroup, help="Serve, or one of these commands. Write ./status for a folder status.")


def _check_origin(origin: str | None) -> str | None:
    if origin is not None and not re.fullmatch(r"\*|https?://[^/\s,]+", origin):
        raise typer.BadParameter(f"{origin!r} is no origin: write it as https://example.com, or * for all")
    return origin


def _check_replicas(text: str) -> str:
    from serving.config import Replicas

    try:
        Replicas.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return text


def _settings(
    repository: Annotated[str, typer.Argument(help="The folder or URI of artifacts: REPOSITORY/MODEL/VERSION/.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on. An address other than loopback needs a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    grpc_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Serve gRPC on this port of the address too.", show_default="no gRPC"),
    ] = None,
    alias: Annotated[
        str | None, typer.Option(help="Serve the versions of this alias, such as stable.", show_default="the newest")
    ] = None,
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Follow the repository: serve new versions, aliases and models as they come."),
    ] = False,
    follow_interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks of --follow.")] = 10.0,
    device: DeviceOption = DeviceName.AUTO,
    replicas: Annotated[
        str,
        typer.Option(
            metavar="N|MIN:MAX",
            callback=_check_replicas,
            help="Processes per model, or a range in which their number follows the work: 1:8, or 0:8 to none.",
        ),
    ] = "1",
    scale_down_after: Annotated[
        float, typer.Option(min=1, help="Seconds after which a process of a range that is not needed stops.")
    ] = 60.0,
    max_batch: Annotated[int, typer.Option(min=1, help="The most images that are run together.")] = 16,
    max_batch_pixels: Annotated[
        int, typer.Option(min=1, help="The most pixels of source images that are run together; limits memory.")
    ] = 2**20,
    max_body: Annotated[
        int, typer.Option(min=1, help="The most bytes of a request, compressed or not, and of an image.")
    ] = 32 * 2**20,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="The most pixels of a request's images; larger ones are refused.")
    ] = 16 * 2**20,
    keys: Annotated[
        Path | None,
        typer.Option(
            help="A file of API keys that requests must carry one of: lines of zorse serve key. Without it the "
            "environment variable ZORSE_API_KEY is the only key.",
            show_default=False,
        ),
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Accept requests of other machines without a key.")
    ] = False,
    cors: Annotated[
        str | None,
        typer.Option(
            metavar="ORIGIN", callback=_check_origin, help="Let web pages of this origin (or *) use the server."
        ),
    ] = None,
    access_log: Annotated[bool, typer.Option("--access-log", help="Write a line of JSON for each request.")] = False,
    proxy: Annotated[
        ProxyName, typer.Option(help="The program in front; auto takes HAProxy where it is installed.")
    ] = ProxyName.AUTO,
    cpus: Annotated[
        float | None, typer.Option(min=0.01, help="On a cluster: the CPUs of each process.", show_default="1")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(min=0.01, max=1, help="On a cluster: the part of a GPU of each process.", show_default="1"),
    ] = None,
) -> Any:
    """Return the `ServerSettings` that the options state."""
    from serving.config import AccessSettings, Batching, KeySource, Limits, Replicas, ServerSettings

    source = KeySource(variable="ZORSE_API_KEY") if keys is None else KeySource(file=str(keys))
    return ServerSettings(
        repository=repository,
        alias=alias,
        follow_s=follow_interval if follow else None,
        host=host,
        port=port,
        grpc_port=grpc_port,
        device=device.value,
        replicas=Replicas.parse(replicas, scale_down_after),
        cpus=cpus,
        gpus=gpus,
        batching=Batching(max_size=max_batch, max_pixels=max_batch_pixels),
        limits=Limits(bytes=max_body, pixels=max_pixels),
        access=AccessSettings(keys_from=source, cors=cors),
        access_log=access_log,
        insecure=insecure,
        proxy=proxy.value,
    )


def _with_settings(action: Callable[[ServerSettings], None]) -> Callable[..., None]:
    """Return the command of `action`, with the options of `_settings`."""

    @functools.wraps(_settings)
    def command(**options: Any) -> None:
        action(_settings(**options))

    command.__doc__ = action.__doc__
    return command


@serve_group.command(_DEFAULT, hidden=True)
@_with_settings
def serve(settings: ServerSettings) -> None:
    """Serve the models of a repository on Ray Serve until Ctrl-C."""
    from serving.app import serve_repository
    from serving.keys import with_keys

    settings = settings.model_copy(update={"access": with_keys(settings.access, os.environ)})
    typer.echo(f"starting the models of {settings.repository} …")
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    grpc = None if settings.grpc_port is None else f"{address}:{settings.grpc_port}"
    serve_repository(settings, lambda models: _announce(f"http://{address}:{settings.port}", grpc, models))
    typer.echo("stopped")


@serve_group.command("config")
@_with_settings
def config(settings: ServerSettings) -> None:
    """Print a configuration with which Ray Serve serves the models on any cluster, for serve deploy and KubeRay.

    A file of keys is one on the nodes.
    """
    import yaml

    from serving.serve_config import serve_config

    typer.echo(yaml.safe_dump(serve_config(settings), sort_keys=False, allow_unicode=True, width=1000), nl=False)


@serve_group.command()
def status(
    url: Annotated[str, typer.Option(help="The server's URL.")] = "http://127.0.0.1:8000",
    api_key: KeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it again every second until Ctrl-C.")] = False,
) -> None:
    """Show what the models of a running server do. The exit code is 1 unless all of them can answer."""
    from rich.console import Console

    from serving.client import Client
    from serving.retrying import ONCE
    from serving.status import server_status

    with Client(url, api_key, timeout=10, retry=ONCE) as client:
        while True:
            found = server_status(client, url, time.monotonic, lambda: time.sleep(1))
            if watch:
                Console().clear()
            _show(found, as_json)
            if not watch:
                break
    if found.unavailable or not found.ready:
        raise typer.Exit(1)


def _show(found: ServerStatus, as_json: bool) -> None:
    from zorse_common.tables import print_json, print_table

    if as_json:
        print_json(found.to_dict())
    else:
        titles = ["model", "version", "kind", "replicas", "requests", "failed", "rejected", "req/s", "p50", "p99"]
        titles += ["queued", "in-flight", "memory"]
        print_table(titles, [_cells(model) for model in found.models])
        nodes = [(one.node, str(one.replicas), _mebibytes(one.memory_bytes)) for one in found.nodes]
        print_table(["node", "replicas", "memory"], nodes)
        for name in found.loading:
            typer.echo(f"{name} is being started")
    if not found.ready:
        typer.echo("not ready: a model cannot answer at this moment", err=True)
    for name, reason in found.unavailable.items():
        typer.echo(f"{name} cannot answer: {reason}", err=True)


def _cells(model: ModelStatus) -> list[str]:
    p50, p99 = map(milliseconds, (model.p50_seconds, model.p99_seconds))
    counts = (model.replicas, model.requests, model.failed, model.rejected, model.per_second)
    return [
        *(model.name, model.version, model.kind, *map(str, counts)),
        *(p50, p99, str(model.queued), str(model.in_flight), _mebibytes(model.memory_bytes)),
    ]


def _mebibytes(nbytes: int) -> str:
    return f"{nbytes / 2**20:.0f} MiB"


def milliseconds(seconds: float | None) -> str:
    """Return a time in milliseconds with three significant digits, or from 100 ms on as a whole number."""
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


@serve_group.command()
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is. Logs and errors show this name.")],
    rate: Annotated[
        str | None, typer.Option(metavar="N/s", help="The most requests: 100/s, 30/m (minute), 5/h.")
    ] = None,
) -> None:
    """Make an API key, and print it once together with its line for the file of --keys."""
    from serving.keys import new_key

    secret, line = new_key(name, rate)
    typer.echo(f"key of {name}, shown once: {secret}", err=True)
    typer.echo("line for the file of keys (zorse serve --keys FILE):", err=True)
    typer.echo(line)


def _announce(url: str, grpc: str | None, models: list[ModelSummary]) -> None:
    width = max(len(model.name) for model in models)
    for model in models:
        verb = "generate" if model.kind == "generator" else "translate"
        typer.echo(f"{model.name:<{width}}  {url}/v2/models/{model.name}/{verb}")
    if grpc is not None:
        typer.echo(f"{'grpc':<{width}}  {grpc}")
    typer.echo(f"{'docs':<{width}}  {url}/docs")
