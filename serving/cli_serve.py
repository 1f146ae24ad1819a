"""The command `zorse serve`, which serves by default and has the commands `config`, `stop`, `status` and `key`."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from serving.cli_models import KeyOption
from serving.cli_serve_options import with_settings

if TYPE_CHECKING:
    from serving.config import ModelSummary, ServerSettings
    from serving.status import ModelStatus, ServerStatus

_DEFAULT = "serve"
"""The name of the command that is called where no other is named. It is hidden."""


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


@serve_group.command(_DEFAULT, hidden=True)
@with_settings
def serve(settings: ServerSettings) -> None:
    """Serve the models of a repository on Ray Serve until Ctrl-C."""
    from serving.app import serve_repository
    from serving.cluster_server import serve_on_cluster
    from serving.keys import with_keys

    settings = settings.model_copy(update={"access": with_keys(settings.access, os.environ)})
    typer.echo(f"starting the models of {settings.repository} …")
    if settings.address is not None:
        serve_on_cluster(settings, lambda url, models: _announce(url, None, models))
        typer.echo("they run on: zorse serve stop removes them" if settings.detach else "stopped")
        return
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    grpc = None if settings.grpc_port is None else f"{address}:{settings.grpc_port}"
    serve_repository(settings, lambda models: _announce(f"http://{address}:{settings.port}", grpc, models))
    typer.echo("stopped")


@serve_group.command("config")
@with_settings
def config(settings: ServerSettings) -> None:
    """Print a configuration with which Ray Serve serves the models on any cluster, for serve deploy and KubeRay.

    A file of keys is one on the nodes.
    """
    import yaml

    from serving.serve_config import serve_config

    typer.echo(yaml.safe_dump(serve_config(settings), sort_keys=False, allow_unicode=True, width=1000), nl=False)


@serve_group.command()
def stop(
    address: Annotated[str, typer.Option(help="The cluster: auto, or host:port of its head.")] = "auto",
) -> None:
    """Remove the models from a Ray cluster, on which zorse serve --address has started them."""
    from serving.cluster_server import remove_from_cluster

    names = remove_from_cluster(address)
    typer.echo(f"removed {', '.join(names)}; Ray Serve itself runs on")


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
    from zorse_common.signals import stop_requested

    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(url, api_key, timeout=10, retry=ONCE))
        # An exception of a signal's handler may be lost in the code that it interrupts, and an event is not.
        stop = stack.enter_context(stop_requested()) if watch else threading.Event()
        while True:
            found = server_status(client, url, time.monotonic, lambda: stop.wait(1))
            if stop.is_set():
                break
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
