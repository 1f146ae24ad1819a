"""A server on a Ray cluster that runs already, and that may run the applications of others too."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from serving.application_names import GATEWAY_ROUTE, is_ours, model_route
from serving.applications import reason_of, start_applications
from serving.artifacts import Artifact, Published
from serving.cluster_connection import connect
from serving.config import GatewaySettings, ModelSettings, ModelSummary, ServerSettings
from serving.errors import StartError
from serving.following import following
from serving.loopback import is_loopback
from serving.network import check_open
from serving.serve_config import check_cluster_options, cluster_gateway, cluster_models
from serving.sound_models import sound_models, warn_of
from serving.stopping import disconnect, stop_applications_of_cluster, until_stopped

if TYPE_CHECKING:
    from ray.serve.config import HTTPOptions

Announce = Callable[[str, list[ModelSummary]], None]
"""Is called with the URL of the server and its models once all of them are ready."""


@dataclass(frozen=True)
class _Deployed:
    """What runs now: the models that were `found`, of which `gateway` lists those that have started."""

    url: str
    found: Mapping[str, tuple[Published, Artifact]]
    models: list[ModelSettings]
    gateway: GatewaySettings
    has_started_serve: bool


def serve_on_cluster(settings: ServerSettings, announce: Announce) -> None:
    """Serve every sound model of the repository until SIGINT or SIGTERM, and then remove what was deployed.

    With `settings.detach` the models stay, and the call returns once they are ready.

    Raises:
        ArtifactError: the repository has no sound artifact; nothing was deployed.
        StartError: there is no cluster, it has no room for the names or paths of the server, or no model starts.
    """
    assert settings.address is not None, "a cluster has an address"
    check_cluster_options(settings)
    if settings.detach and settings.follow_s is not None:
        raise StartError("nobody follows the repository after --detach: leave out --follow, or let zorse serve run")
    if not settings.detach:
        until_stopped(_running(settings), lambda deployed: announce(deployed.url, list(deployed.gateway.models)))
        return
    with _connected(settings.address):
        deployed = _deploy(settings)
        announce(deployed.url, list(deployed.gateway.models))


def remove_from_cluster(address: str) -> list[str]:
    """Remove the server from the cluster at `address`, and return the names of its applications.

    Raises:
        StartError: there is no cluster, or no server on it.
    """
    with _connected(address):
        names = stop_applications_of_cluster(ends_serve=False)
    if not names:
        raise StartError(f"zorse serves nothing on the cluster at {address}")
    return names


@contextlib.contextmanager
def _running(settings: ServerSettings) -> Iterator[_Deployed]:
    assert settings.address is not None, "a cluster has an address"
    with _connected(settings.address):
        deployed = _deploy(settings)
        try:
            with following(settings, deployed.models[0], deployed.found, deployed.gateway):
                yield deployed
        finally:
            stop_applications_of_cluster(ends_serve=deployed.has_started_serve)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        connect(address, StartError)
        yield
    finally:
        disconnect()


def _deploy(settings: ServerSettings) -> _Deployed:
    """Start the applications, or leave nothing behind."""
    import ray

    found, skipped = sound_models(settings.repository, settings.alias)
    if settings.device == "auto":
        device = "cuda" if ray.cluster_resources().get("GPU") else "cpu"
        settings = settings.model_copy(update={"device": device})
    options = _running_options()
    host, port = (settings.host, settings.port) if options is None else (options.host, options.port)
    check_open(settings, host)
    access = settings.access.model_copy(update={"is_local": is_loopback(host)})
    models = cluster_models(settings, found, access)
    gateway = cluster_gateway(settings, found, skipped, access)
    _check_room(models, gateway)
    _check_names(models)
    try:
        if options is None:
            _start_serve(host, port)
        gateway = start_applications(models, gateway)
    except BaseException:
        stop_applications_of_cluster(ends_serve=options is None)
        raise
    for name in gateway.unavailable.keys() - skipped.keys():
        warn_of(name, settings.repository, gateway.unavailable[name])
    return _Deployed(f"http://{_reachable(host, settings.address)}:{port}", found, models, gateway, options is None)


def _running_options() -> HTTPOptions | None:
    """Return where Ray Serve listens, or None if it does not run."""
    from ray.serve.context import _get_global_client
    from ray.serve.exceptions import RayServeException

    try:
        return _get_global_client().http_config
    except RayServeException:
        return None


def _start_serve(host: str, port: int) -> None:
    from ray import serve
    from ray.serve.config import HTTPOptions

    try:
        serve.start(proxy_location="EveryNode", http_options=HTTPOptions(host=host, port=port))
    except Exception as error:
        raise StartError(f"the proxies of Ray Serve do not start ({reason_of(str(error))})") from error


def _check_names(models: list[ModelSettings]) -> None:
    """Check that the cluster has no application of this kind, and none at a path of the server.

    Raises:
        StartError: it has one.
    """
    routes = {GATEWAY_ROUTE, *(model_route(model.name) for model in models)}
    for name, application in _applications().items():
        if is_ours(name):
            raise StartError(f"the cluster serves zorse already ({name}): zorse serve stop removes it")
        if (route := application["route_prefix"]) in routes:
            raise StartError(f"the application {name} of the cluster has the path {route}: give it another one")


def _applications() -> dict[str, Any]:
    from ray.serve.context import _get_global_client

    if _running_options() is None:
        return {}
    applications: dict[str, Any] = _get_global_client().get_serve_details()["applications"]
    return applications


def _check_room(models: list[ModelSettings], gateway: GatewaySettings) -> None:
    """Warn if the processes reserve more than the cluster has: an autoscaler may add nodes, and else they wait."""
    import ray

    cluster = ray.cluster_resources()
    for resource, key, option in (("CPU", "num_cpus", "--cpus"), ("GPU", "num_gpus", "--gpus")):
        needed = sum(model.replicas.max * model.resources.get(key, 0.0) for model in models)
        needed += gateway.cpus if resource == "CPU" else 0.0
        if needed > cluster.get(resource, 0.0):
            logging.getLogger(__name__).warning(
                "the models reserve %g %ss and the cluster has %g: some wait unless it grows; see %s and --replicas",
                *(needed, resource, cluster.get(resource, 0.0), option),
            )


def _reachable(host: str, address: str | None) -> str:
    """Return the host under which this machine reaches proxies that listen on `host` of each node."""
    if host not in ("0.0.0.0", "::"):
        return f"[{host}]" if ":" in host else host
    return "127.0.0.1" if address is None or ":" not in address else address.rpartition(":")[0]
