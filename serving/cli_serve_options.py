"""The options of the commands that serve a repository."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.cli_models import DeviceName, DeviceOption

if TYPE_CHECKING:
    from serving.config import ServerSettings


class ProxyName(StrEnum):
    """The program in front of the replicas."""

    AUTO = "auto"
    HAPROXY = "haproxy"
    RAY = "ray"


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
    address: Annotated[
        str | None,
        typer.Option(
            help="Serve on the Ray cluster at this address, auto or host:port of its head.",
            show_default="a Ray of its own on this machine",
        ),
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="On a cluster: end once the models run, and leave them there.")
    ] = False,
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
        address=address,
        detach=detach,
        cpus=cpus,
        gpus=gpus,
        batching=Batching(max_size=max_batch, max_pixels=max_batch_pixels),
        limits=Limits(bytes=max_body, pixels=max_pixels),
        access=AccessSettings(keys_from=source, cors=cors),
        access_log=access_log,
        insecure=insecure,
        proxy=proxy.value,
    )


def with_settings(action: Callable[[ServerSettings], None]) -> Callable[..., None]:
    """Return the command of `action`, with the options of `_settings`."""

    @functools.wraps(_settings)
    def command(**options: Any) -> None:
        action(_settings(**options))

    command.__doc__ = action.__doc__
    return command
