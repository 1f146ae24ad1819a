"""The server: a local Ray cluster with one Ray Serve application for each model, and the gateway application."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serving.applications import cluster_resources, reason_of, start_applications
from serving.artifacts import Artifact
from serving.cluster_connection import kept_handlers
from serving.config import (
    AccessSettings,
    GatewaySettings,
    ModelSettings,
    ModelSummary,
    Proxy,
    ServerSettings,
)
from serving.engine import resolve_device
from serving.errors import StartError
from serving.following import following
from serving.haproxy import check_config
from serving.logs import append_line, copied_log
from serving.loopback import is_loopback
from serving.memory import check_memory
from serving.network import bound_ports, check_address, chosen_proxy, serve_environment, serve_host
from serving.partners import partner_name
from serving.sound_models import sound_models, warn_of
from serving.stopping import stop_applications, until_stopped
from zorse_common.private_ray import ray_environment, ray_files, ray_folder


@contextmanager
def running_server(settings: ServerSettings) -> Iterator[list[ModelSummary]]:
    """Serve every sound model of the repository on a local Ray cluster while the block runs, and yield these models.

    Raises:
        ArtifactError: the repository has no sound artifact; nothing was started.
        StartError: the address is in use or not permitted, or no model starts.
    """
    check_address(settings)
    proxy = chosen_proxy(settings)
    found, skipped = sound_models(settings.repository, settings.alias)
    models = {name: artifact for name, (_, artifact) in found.items()}
    check_memory(settings.replicas.max, [artifact.manifest.nbytes for artifact in models.values()])
    summaries = [
        ModelSummary(name=n, version=a.manifest.version, kind=a.manifest.interface.kind) for n, a in models.items()
    ]
    with contextlib.ExitStack() as stack:
        if proxy == "haproxy":
            stack.enter_context(bound_ports(settings))
        folder = stack.enter_context(ray_folder())
        stack.enter_context(copied_log(folder))
        settings_of_models = model_settings(settings, models, folder)
        # A new version runs beside the old one for a while.
        replicas = 2 * settings.replicas.max * len(settings_of_models)
        variables = stack.enter_context(serve_environment(settings, proxy, folder, replicas + 1))
        stack.enter_context(ray_environment(variables))
        if proxy == "haproxy":
            check_config(folder)
        stack.callback(stop_applications, folder)
        _start_ray(folder)
        stack.enter_context(_ray_in_log(folder))
        _start_proxy(settings, proxy)
        gateway = GatewaySettings(
            models=tuple(summaries),
            manifests={name: artifact.manifest.to_json() for name, artifact in models.items()},
            to_zero=settings.replicas.min == 0,
            unavailable=skipped,
            limits=settings.limits,
            access=_access(settings),
            folder=folder,
            access_log=settings.access_log,
        )
        device = settings_of_models[0].device
        if device == "cuda" and settings.follow_s is None:
            # A server that is asked to load a version now and then does not keep half of its GPUs for that.
            replicas //= 2
        resources = cluster_resources(device, replicas)
        shares = {"cpus": resources["num_cpus"], "gpu_fraction": resources.get("num_gpus", 1.0)}
        settings_of_models = [one.model_copy(update=shares) for one in settings_of_models]
        gateway = gateway.model_copy(update={"cpus": shares["cpus"]})
        gateway = start_applications(settings_of_models, gateway)
        for name in gateway.unavailable.keys() - skipped.keys():
            warn_of(name, settings.repository, gateway.unavailable[name])
        stack.enter_context(following(settings, settings_of_models[0], found, gateway))
        yield list(gateway.models)


def serve_repository(settings: ServerSettings, announce: Callable[[list[ModelSummary]], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce` is called with the models once all of them are ready.

    After the signal new requests are refused, and requests in flight are answered. A second Ctrl-C ends at once.

    Raises:
        ArtifactError, StartError: as `running_server`.
        KeyboardInterrupt: on the second Ctrl-C.
    """
    for option, value in (("--detach", settings.detach), ("--cpus", settings.cpus), ("--gpus", settings.gpus)):
        if value:
            raise StartError(f"{option} is for a cluster that runs already: give its --address too")
    until_stopped(running_server(settings), announce)


def _access(settings: ServerSettings) -> AccessSettings:
    return settings.access.model_copy(update={"is_local": is_loopback(settings.host)})


def model_settings(settings: ServerSettings, models: dict[str, Artifact], folder: str) -> list[ModelSettings]:
    """Return the settings of each model's application; `folder` is the server's."""
    manifests = [artifact.manifest for artifact in models.values()]
    return [
        ModelSettings(
            name=name,
            artifact=str(artifact.path.resolve()),
            models=tuple(models),
            partner=partner_name(artifact.manifest, manifests),
            device=resolve_device(settings.device),
            batching=settings.batching,
            limits=settings.limits,
            access=_access(settings),
            replicas=settings.replicas,
            folder=folder,
            access_log=settings.access_log,
        )
        for name, artifact in models.items()
    ]


def _start_ray(folder: str) -> None:
    """Start Ray on this machine with its files in the server's `folder`."""
    import ray

    try:
        with kept_handlers():
            ray.init(
                address="local",
                namespace="zorse",
                include_dashboard=False,
                configure_logging=False,
                log_to_driver=False,
                object_store_memory=128 * 2**20,
                _temp_dir=ray_files(folder),
            )
    except Exception as error:
        raise StartError(
            f"Ray does not start here ({reason_of(str(error))}): try again, and see zorse doctor"
        ) from error


@contextmanager
def _ray_in_log(folder: str) -> Iterator[None]:
    """While the block runs, write to the log what Ray would print to this process's output: that a process has died."""
    from ray._private import worker

    def write(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        append_line(folder, f"Ray: {' '.join(data['lines'])}")

    printing = worker.print_to_stdstream
    worker.print_to_stdstream = write
    try:
        yield
    finally:
        worker.print_to_stdstream = printing


def _start_proxy(settings: ServerSettings, proxy: Proxy) -> None:
    """Start Ray Serve with its proxy.

    Raises:
        StartError: the proxy cannot listen on the address of the settings, or does not start.
    """
    from ray import serve
    from ray.serve.config import HTTPOptions

    from serving.deployment import LOGGING

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    options = HTTPOptions(host=serve_host(settings, proxy), port=settings.port)
    try:
        serve.start(proxy_location="HeadOnly", http_options=options, logging_config=LOGGING)
    except Exception as error:
        # Another program may have taken the port after the first check.
        check_address(settings)
        raise StartError(f"the proxy does not start ({reason_of(str(error))})") from error
