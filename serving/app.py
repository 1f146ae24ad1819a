"""The server: a local Ray cluster with one Ray Serve application for each model, and the gateway application."""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serving import artifacts
from serving.artifacts import Artifact
from serving.config import (
    AccessSettings,
    Device,
    GatewaySettings,
    ModelSettings,
    ModelSummary,
    Proxy,
    ServerSettings,
)
from serving.cuda import gpu_fraction
from serving.engine import resolve_device
from serving.errors import StartError
from serving.haproxy import check_config
from serving.logs import append_warning, copied_log
from serving.loopback import is_loopback
from serving.memory import check_memory
from serving.network import check_address, chosen_proxy, serve_environment, serve_host
from serving.partners import partner_name
from serving.stopping import stop_applications
from zorse_common.private_ray import ray_environment, ray_files, ray_folder
from zorse_common.signals import stop_requested

_LARGEST_SHARE = 0.1
"""The most cores that a replica reserves. Ray uses it for placement only, so that two cores can serve many models."""
_SMALLEST = 1e-4
"""The smallest amount of a resource that Ray can reserve."""


@contextmanager
def running_server(settings: ServerSettings) -> Iterator[list[ModelSummary]]:
    """Serve every model of the repository on a local Ray cluster while the block runs.

    Raises:
        ArtifactError: the repository is empty or an artifact is not sound; nothing was started.
        StartError: the address is in use or not permitted, or a model does not start.
    """
    check_address(settings)
    proxy = chosen_proxy(settings)
    listing = artifacts.find(settings.repository, settings.alias)
    for name, reason in listing.skipped.items():
        logging.getLogger(__name__).warning("skipped %s of %s: %s", name, settings.repository, reason)
    models = {name: artifacts.load(folder.uri) for name, folder in listing.models.items()}
    check_memory(settings.replicas, [artifact.manifest.nbytes for artifact in models.values()])
    summaries = [
        ModelSummary(name=n, version=a.manifest.version, kind=a.manifest.interface.kind) for n, a in models.items()
    ]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(ray_folder())
        stack.enter_context(copied_log(folder))
        settings_of_models = model_settings(settings, models, folder)
        replicas = settings.replicas * len(settings_of_models) + 1
        variables = stack.enter_context(serve_environment(settings, proxy, folder, replicas))
        stack.enter_context(ray_environment(variables))
        if proxy == "haproxy":
            check_config(folder)
        stack.callback(stop_applications, folder)
        _start_ray(folder)
        stack.enter_context(_ray_in_log(folder))
        _start_proxy(settings, proxy)
        gateway = GatewaySettings(
            models=tuple(summaries), access=_access(settings), folder=folder, access_log=settings.access_log
        )
        _start_applications(settings.replicas, settings_of_models, gateway)
        yield summaries


class _StoppedError(BaseException):
    """The process received a signal while the server was starting."""


def serve_repository(settings: ServerSettings, announce: Callable[[list[ModelSummary]], None]) -> None:
    """Serve until SIGINT or SIGTERM. `announce` is called with the models once all of them are ready.

    After the signal new requests are refused, and requests in flight are answered. A second Ctrl-C ends at once.

    Raises:
        ArtifactError, StartError: as `running_server`.
        KeyboardInterrupt: on the second Ctrl-C.
    """
    ready = False

    def abandon() -> None:
        if not ready:
            raise _StoppedError

    try:
        with stop_requested(abandon) as stop, running_server(settings) as models:
            ready = True
            announce(models)
            stop.wait()
    except (_StoppedError, SystemExit):
        # Ray's own signal handler, which is installed while Ray starts, raises SystemExit.
        return


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

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
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
        raise StartError(f"Ray does not start here ({_reason(str(error))}): try again, and see zorse doctor") from error
    if threading.current_thread() is threading.main_thread():
        # Ray replaces them by handlers that abort the process.
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _ray_in_log(folder: str) -> Iterator[None]:
    """While the block runs, write to the log what Ray would print to this process's output: that a process has died."""
    from ray._private import worker

    def write(data: Mapping[str, Any], ignore_prefix: bool) -> None:
        append_warning(folder, f"Ray: {' '.join(data['lines'])}")

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
        raise StartError(f"the proxy does not start ({_reason(str(error))})") from error


def _start_applications(replicas: int, settings_of_models: list[ModelSettings], gateway: GatewaySettings) -> None:
    """Start the applications of the models, each with `replicas` processes, and wait until all of them answer."""
    import ray
    from ray import serve

    from serving.deployment import GATEWAY, GatewayReplica, ModelReplica, run_target

    cluster = ray.cluster_resources()
    count = len(settings_of_models) * replicas
    resources = replica_resources(
        settings_of_models[0].device, count, int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    )
    options = {"num_replicas": replicas, "ray_actor_options": resources}
    fraction = {"gpu_fraction": resources.get("num_gpus", 1.0)}
    targets = [
        run_target(ModelReplica, m.name, f"/v2/models/{m.name}", options, m.model_copy(update=fraction))
        for m in settings_of_models
    ]
    options = {"num_replicas": 1, "ray_actor_options": {"num_cpus": resources["num_cpus"]}}
    targets.append(run_target(GatewayReplica, GATEWAY, "/", options, gateway))
    try:
        serve.run_many(targets)
    except RuntimeError as error:
        # Ray's exception only names the application; the reason is in the status of its deployments.
        deployments = [one for entry in serve.status().applications.values() for one in entry.deployments.values()]
        raise StartError(_reason("\n".join([str(error), *(one.message for one in deployments)]))) from error


def replica_resources(device: Device, replicas: int, cpus: int, gpus: int) -> dict[str, float]:
    """Return the Ray resources of each of `replicas` equal processes, so that all of them and the gateway fit.

    Raises:
        StartError: `device` is CUDA and there is no GPU.
    """
    if device == "cuda" and not gpus:
        raise StartError("CUDA was requested and Ray sees no GPU: use --device cpu")
    reserved = {"num_cpus": min(_LARGEST_SHARE, _rounded(cpus / (replicas + 1)))}
    if device == "cuda":
        reserved["num_gpus"] = _rounded(gpu_fraction(replicas, gpus))
    return reserved


def _rounded(share: float) -> float:
    """Round down to an amount that Ray can reserve."""
    return max(_SMALLEST, round(math.floor(share / _SMALLEST) * _SMALLEST, 4))


def _reason(text: str) -> str:
    """Return the line of a failed start that has an error of this stage, without Ray's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own_errors = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return (own_errors or lines)[-1]
