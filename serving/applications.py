"""The Ray Serve applications of a server: one for each model, and the gateway."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from serving.application_names import GATEWAY, application_name
from serving.artifacts import Artifact
from serving.config import Device, GatewaySettings, ModelSettings, Replicas
from serving.cuda import gpu_fraction
from serving.errors import LostProcessError, StartError
from serving.scaling import OngoingWork

if TYPE_CHECKING:
    from ray.serve import RunTarget
    from ray.serve.schema import ApplicationStatusOverview

_LARGEST_SHARE = 0.1
"""The most cores that a replica reserves. Ray uses it for placement only, so that two cores can serve many models."""
_SMALLEST = 1e-4
"""The smallest amount of a resource that Ray can reserve."""


def cluster_resources(device: Device, replicas: int) -> dict[str, float]:
    """Return the Ray resources of each of `replicas` equal processes on the cluster: see `replica_resources`."""
    import ray

    cluster = ray.cluster_resources()
    return replica_resources(device, replicas, int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0)))


def start_applications(
    resources: dict[str, float], settings_of_models: list[ModelSettings], gateway: GatewaySettings
) -> GatewaySettings:
    """Start the applications of the models, and wait until all of them answer. Each process reserves `resources`.

    Returns:
        The gateway's settings. A model that does not start is in `unavailable` there, and no longer in `models`.

    Raises:
        StartError: no model starts.
    """
    from ray import serve

    from serving.deployment import GatewayReplica, run_target

    targets = [_model_target(settings, resources) for settings in settings_of_models]
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
    reasons = {
        model.name: failed[application]
        for model in gateway.models
        if (application := application_name(model.name)) in failed
    }
    gateway = gateway.model_copy(
        update={
            "models": tuple(model for model in gateway.models if model.name not in reasons),
            "unavailable": gateway.unavailable
            | {
                f"{model.name}/{model.version}": reasons[model.name]
                for model in gateway.models
                if model.name in reasons
            },
        }
    )
    serve.run_many([run_target(GatewayReplica, GATEWAY, "/", options, gateway)])
    return gateway


def _model_target(settings: ModelSettings, resources: dict[str, float], running: int = 0) -> RunTarget:
    """Return a model's application. The same artifact and settings make the same one, of which no replica starts anew.

    Of another one as many replicas start beside the `running` old ones, which stop when the new ones run.
    """
    from serving.deployment import ModelReplica, run_target

    settings = settings.model_copy(update={"gpu_fraction": resources.get("num_gpus", 1.0)})
    options = model_options(settings.replicas, resources, running)
    name = application_name(settings.name)
    return run_target(ModelReplica, name, f"/v2/models/{settings.name}", options, settings)


def model_options(replicas: Replicas, resources: Mapping[str, float], running: int = 0) -> dict[str, Any]:
    """Return Ray Serve's options of a model's deployment, whose processes reserve `resources` each.

    `running` is how many of them an update of the model finds. A model starts with one at least, which proves it.
    """
    options = {"ray_actor_options": dict(resources), "max_surge_percent": 100}
    if not replicas.is_range:
        return options | {"num_replicas": replicas.max}
    autoscaling = {
        "min_replicas": replicas.min,
        "max_replicas": replicas.max,
        "initial_replicas": min(replicas.max, max(1, replicas.min, running)),
        # Replicas report every second the loads of the last five. By default a change shows after half a minute.
        "metrics_interval_s": 1.0,
        "look_back_period_s": 5.0,
        "aggregation_function": "mean",
        # The policy knows when to follow its numbers, and follows them wholly.
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "downscale_to_zero_delay_s": 0.0,
        "upscaling_factor": 1.0,
        "downscaling_factor": 1.0,
        "policy": {
            "policy_function": f"{OngoingWork.__module__}:{OngoingWork.__name__}",
            "policy_kwargs": {"keep_s": replicas.keep_s},
        },
    }
    return options | {"autoscaling_config": autoscaling}


class Applications:
    """The models' applications while the server runs. Each process reserves `resources`.

    `settings_of` returns the settings of an artifact's application. A version must have started within `timeout_s`.
    """

    def __init__(
        self,
        resources: dict[str, float],
        settings_of: Callable[[Artifact], ModelSettings],
        stop: threading.Event,
        timeout_s: float = 600,
    ) -> None:
        self._resources, self._settings_of, self._stopped, self._timeout_s = resources, settings_of, stop, timeout_s

    def run(self, artifact: Artifact, before: Artifact | None) -> None:
        """See `serving.reconcile.Cluster`. A version that fails never gets a request: its constructor proves it."""
        from ray import serve

        name = application_name(artifact.manifest.name)
        self._deploy(artifact)
        if (error := self._failure(name)) is None:
            return
        if before is None:
            serve.delete(name)
        else:
            # Ray Serve does not go back by itself, and would not replace a replica of the old version that dies.
            self._deploy(before)
            self._failure(name)
        raise error

    def stop(self, model: str) -> None:
        """See `serving.reconcile.Cluster`."""
        from ray import serve

        serve.delete(application_name(model))

    def _deploy(self, artifact: Artifact) -> None:
        from ray import serve

        running = _running_replicas(application_name(artifact.manifest.name))
        target = _model_target(self._settings_of(artifact), self._resources, running)
        serve.run_many([target], wait_for_applications_running=False)

    def _failure(self, name: str) -> StartError | None:
        """Wait until the application runs, and return None, or the reason why it does not."""
        from ray import serve

        end = time.monotonic() + self._timeout_s
        while time.monotonic() < end and not self._stopped.wait(0.1):
            one = serve.status().applications.get(name)
            if one is not None and one.status == "RUNNING":
                return None
            if one is not None and one.status == "DEPLOY_FAILED":
                return _error_of(_text_of(one))
        if self._stopped.is_set():
            return StartError("it has not started")
        return StartError(f"it has not started within {self._timeout_s:.0f} s")


def _text_of(one: ApplicationStatusOverview) -> str:
    # The message of an application only names its deployment; the reason is in the status of that.
    return "\n".join([one.message, *(deployment.message for deployment in one.deployments.values())])


def _running_replicas(name: str) -> int:
    """Return how many replicas of the application run."""
    from ray import serve

    one = serve.status().applications.get(name)
    deployments = () if one is None else one.deployments.values()
    return sum(deployment.replica_states.get("RUNNING", 0) for deployment in deployments)


def _reason(one: ApplicationStatusOverview) -> str:
    return reason_of(_text_of(one))


def _failed_applications() -> dict[str, str]:
    """Wait until every application runs or has failed, and return the reasons of those that have failed."""
    from ray import serve

    while any(one.status in ("NOT_STARTED", "DEPLOYING") for one in serve.status().applications.values()):
        time.sleep(0.1)
    return {name: _reason(one) for name, one in serve.status().applications.items() if one.status != "RUNNING"}


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
    return str(_error_of(text))


def _error_of(text: str) -> StartError:
    """Return the error of a failed start: one of this stage, or else the last line of what Ray says."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    own_errors = [line.split(": ", 1)[1] for line in lines if line.startswith("serving.errors.") and ": " in line]
    return StartError(own_errors[-1]) if own_errors else LostProcessError(lines[-1])
