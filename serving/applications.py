"""The Ray Serve applications of a server: one for each model, and the gateway."""

from __future__ import annotations

import math
import time

from serving.config import Device, GatewaySettings, ModelSettings
from serving.cuda import gpu_fraction
from serving.errors import StartError

_LARGEST_SHARE = 0.1
"""The most cores that a replica reserves. Ray uses it for placement only, so that two cores can serve many models."""
_SMALLEST = 1e-4
"""The smallest amount of a resource that Ray can reserve."""


def start_applications(
    replicas: int, settings_of_models: list[ModelSettings], gateway: GatewaySettings
) -> GatewaySettings:
    """Start the applications of the models, each with `replicas` processes, and wait until all of them answer.

    Returns:
        The gateway's settings. A model that does not start is in `unavailable` there, and no longer in `models`.

    Raises:
        StartError: no model starts.
    """
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
    try:
        serve.run_many([*targets, run_target(GatewayReplica, GATEWAY, "/", options, gateway)])
    except RuntimeError as error:
        failed = _failed_applications()
        if GATEWAY in failed or len(failed) in (0, len(targets)):
            raise StartError(next(iter(failed.values()), reason_of(str(error)))) from error
    else:
        return gateway
    for name in (*failed, GATEWAY):
        serve.delete(name)
    reasons = {f"{model.name}/{model.version}": failed[model.name] for model in gateway.models if model.name in failed}
    gateway = gateway.model_copy(
        update={
            "models": tuple(model for model in gateway.models if model.name not in failed),
            "unavailable": gateway.unavailable | reasons,
        }
    )
    serve.run_many([run_target(GatewayReplica, GATEWAY, "/", options, gateway)])
    return gateway


def _failed_applications() -> dict[str, str]:
    """Wait until every application runs or has failed, and return the reasons of those that have failed."""
    from ray import serve

    while any(one.status in ("NOT_STARTED", "DEPLOYING") for one in serve.status().applications.values()):
        time.sleep(0.1)
    # The message of an application only names its deployment; the reason is in the status of that.
    return {
        name: reason_of("\n".join([one.message, *(deployment.message for deployment in one.deployments.values())]))
        for name, one in serve.status().applications.items()
        if one.status != "RUNNING"
    }


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


def reason_of(text: str) -> str:
    """Return the line of a failed start that has an error of this stage, without Ray's traceback around it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own_errors = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return (own_errors or lines)[-1]
