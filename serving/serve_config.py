"""The configuration with which any Ray cluster serves a repository: for `serve deploy` and KubeRay's RayService."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.application_names import GATEWAY, GATEWAY_ROUTE, application_name, model_route
from serving.artifacts import Artifact, Published
from serving.config import (
    AccessSettings,
    Device,
    GatewaySettings,
    ModelSettings,
    ModelSummary,
    ServerSettings,
    Settings,
)
from serving.errors import StartError
from serving.loopback import is_loopback
from serving.partners import partner_name
from serving.sound_models import sound_models


def serve_config(settings: ServerSettings) -> dict[str, Any]:
    """Return the configuration. It pins the versions that the repository names now.

    The processes of the server read their keys on their nodes, unless `settings` are insecure.

    Raises:
        ArtifactError: the repository has no sound artifact.
        StartError: a setting does not fit a configuration.
    """
    _check(settings)
    found, skipped = sound_models(settings.repository, settings.alias)
    access = settings.access.model_copy(
        update={
            "keys_from": None if settings.insecure else settings.access.keys_from,
            "is_local": is_loopback(settings.host),
        }
    )
    models = cluster_models(settings, found, access)
    gateway = cluster_gateway(settings, found, skipped, access)
    if settings.replicas.min:
        # The gateway answers for models without a process alone.
        gateway = gateway.model_copy(update={"manifests": {}})
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.port},
        "applications": [
            _application(GATEWAY, GATEWAY_ROUTE, "gateway", gateway),
            *(_application(application_name(one.name), model_route(one.name), "model", one) for one in models),
        ],
    }


def cluster_models(
    settings: ServerSettings, found: Mapping[str, tuple[Published, Artifact]], access: AccessSettings
) -> list[ModelSettings]:
    """Return the settings of each model's application on a cluster."""
    return [
        cluster_model(settings, published, artifact, access).model_copy(update={"partner": partner})
        for published, artifact in found.values()
        for partner in [partner_name(artifact.manifest, (other.manifest for _, other in found.values()))]
    ]


def cluster_model(
    settings: ServerSettings, published: Published, artifact: Artifact, access: AccessSettings
) -> ModelSettings:
    """Return the settings of the application of one artifact on a cluster."""
    assert settings.device != "auto", "the device is chosen before"
    device: Device = settings.device
    return ModelSettings(
        name=artifact.manifest.name,
        artifact=published.uri,
        digest=published.digest,
        device=device,
        cpus=settings.cpus or 1.0,
        gpu_fraction=settings.gpus or 1.0,
        replicas=settings.replicas,
        batching=settings.batching,
        limits=settings.limits,
        access=access,
        access_log=settings.access_log,
    )


def cluster_gateway(
    settings: ServerSettings,
    found: Mapping[str, tuple[Published, Artifact]],
    skipped: Mapping[str, str],
    access: AccessSettings,
) -> GatewaySettings:
    """Return the settings of the gateway's application on a cluster. `skipped` has the reasons of the other models."""
    manifests = [artifact.manifest for _, artifact in found.values()]
    return GatewaySettings(
        models=tuple(ModelSummary(name=m.name, version=m.version, kind=m.interface.kind) for m in manifests),
        manifests={manifest.name: manifest.to_json() for manifest in manifests},
        to_zero=settings.replicas.min == 0,
        unavailable=dict(skipped),
        limits=settings.limits,
        access=access,
        access_log=settings.access_log,
    )


def _application(name: str, route_prefix: str, builder: str, settings: Settings) -> dict[str, Any]:
    stated = settings.model_dump(mode="json", include={"device", "cpus", "replicas"})
    return {
        "name": name,
        "route_prefix": route_prefix,
        "import_path": f"serving.builder:{builder}",
        "args": settings.model_dump(mode="json", exclude_defaults=True) | stated,
    }


def _check(settings: ServerSettings) -> None:
    if settings.device == "auto":
        raise StartError("a configuration is for other machines: say --device cpu or --device cuda")
    if settings.follow_s is not None:
        raise StartError("a configuration pins versions: leave out --follow, and deploy a new one to update")
    if settings.address is not None or settings.detach:
        raise StartError("a configuration is for any cluster: leave out --address and --detach")
    check_cluster_options(settings)


def check_cluster_options(settings: ServerSettings) -> None:
    """Raise StartError if a setting is for a server with a cluster of its own."""
    if settings.grpc_port is not None:
        raise StartError("gRPC needs the server's own HAProxy, which other clusters do not have: leave out --grpc-port")
    if settings.proxy != "auto":
        raise StartError("a cluster has a proxy of its own: leave out --proxy")
