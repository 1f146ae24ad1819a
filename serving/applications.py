"""The Ray Serve applications of a server: one for each model, and the gateway."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from serving.application_names import GATEWAY, GATEWAY_ROUTE, application_name, is_ours, model_route
from serving.artifacts import Artifact
from serving.config import Device, GatewaySettings, ModelSettings
from serving.cuda import gpu_fraction
from serving.errors import LostProcessError, StartError

if TYPE_CHECKING:
    from ray.serve import RunTarget
    from ray.serve.schema import ApplicationStatusOverview

_LARGEST_SHARE = 0.01
"""The most cores that a replica reserves. Ray uses it for placement only, so that two cores can serve many models.

A server that follows its repository does not know how many will come: a hundred processes fit on each core.
"""
_ROOM_SECONDS = 10.0
"""How long Ray may take to see that a process which has stopped reserves nothing any longer."""
_SMALLEST = 1e-4
"""The smallest amount of a resource that Ray can reserve."""


def cluster_resources(device: Device, replicas: int) -> dict[str, float]:
    """Return the Ray resources of each of `replicas` equal processes on the cluster: see `replica_resources`."""
    import ray

    cluster = ray.cluster_resources()
    return replica_resources(device, replicas, int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0)))


def start_applications(settings_of_models: Sequence[ModelSettings], gateway: GatewaySettings) -> GatewaySettings:
    """Start the applications of the models, and wait until all of them answer.

    Returns:
        The gateway's settings. A model that does not start is in `unavailable` there, and no longer in `models`.

    Raises:
        StartError: no model starts.
    """
    from ray import serve

    targets = [_model_target(settings) for settings in settings_of_models]
    try:
        serve.run_many([*targets, _gateway_target(gateway)])
    except RuntimeError as error:
        failed = _failed_applications()
        if GATEWAY in failed or len(failed) in (0, len(targets)):
            raise StartError(next(iter(failed.values()), reason_of(str(error)))) from error
    else:
        return gateway
    for name in (*failed, GATEWAY):
        serve.delete(name)
    gateway = without(gateway, failed)
    serve.run_many([_gateway_target(gateway)])
    return gateway


def without(gateway: GatewaySettings, failed: Mapping[str, str]) -> GatewaySettings:
    """Return the gateway's settings without the models whose applications are in `failed`, with the reasons there."""
    reasons = {
        f"{model.name}/{model.version}": failed[application_name(model.name)]
        for model in gateway.models
        if application_name(model.name) in failed
    }
    models = tuple(model for model in gateway.models if application_name(model.name) not in failed)
    return gateway.model_copy(update={"models": models, "unavailable": gateway.unavailable | reasons})


def _model_target(settings: ModelSettings, running: int = 0) -> RunTarget:
    from ray.serve import RunTarget

    from serving.builder import model_application

    return RunTarget(
        model_application(settings, running),
        name=application_name(settings.name),
        route_prefix=model_route(settings.name),
    )


def _gateway_target(settings: GatewaySettings) -> RunTarget:
    from ray.serve import RunTarget

    from serving.builder import gateway_application

    return RunTarget(gateway_application(settings), name=GATEWAY, route_prefix=GATEWAY_ROUTE)


def _free_gpus() -> float:
    """Return how much of the cluster's GPUs is not reserved."""
    import ray

    return float(ray.available_resources().get("GPU", 0.0))


class Applications:
    """The models' applications while the server runs.

    `settings_of` returns the settings of an artifact's application. A version must have started within `timeout_s`.
    `free_gpus` returns how much of the GPUs is not reserved.
    """

    def __init__(
        self,
        settings_of: Callable[[Artifact], ModelSettings],
        stop: threading.Event,
        timeout_s: float = 600,
        free_gpus: Callable[[], float] = _free_gpus,
    ) -> None:
        self._settings_of, self._stopped, self._timeout_s = settings_of, stop, timeout_s
        self._free_gpus = free_gpus

    def run(self, artifact: Artifact, before: Artifact | None) -> None:
        """See `serving.reconcile.Cluster`. A version that fails never gets a request: its constructor proves it."""
        from ray import serve

        name = application_name(artifact.manifest.name)
        settings = self._settings_of(artifact)
        if settings.folder is not None:  # a cluster may grow
            self._check_room(settings.resources.get("num_gpus", 0.0))
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

    def _check_room(self, needed: float) -> None:
        """Raise StartError if the GPUs have no room for a process that needs so much: Ray would wait for it."""
        end = time.monotonic() + _ROOM_SECONDS
        while needed and self._free_gpus() < needed:
            if time.monotonic() > end or self._stopped.wait(0.2):
                raise StartError(
                    "the GPUs have no room for it: unload a model first, or start the server with --follow, which "
                    "keeps room for a second version of each model"
                )

    def _deploy(self, artifact: Artifact) -> None:
        from ray import serve

        running = _running_replicas(application_name(artifact.manifest.name))
        target = _model_target(self._settings_of(artifact), running)
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
    """Wait until each of the server's applications runs or has failed, and return the reasons of the failed ones."""
    while any(one.status in ("NOT_STARTED", "DEPLOYING") for one in _applications().values()):
        time.sleep(0.1)
    return {name: _reason(one) for name, one in _applications().items() if one.status != "RUNNING"}


def _applications() -> dict[str, ApplicationStatusOverview]:
    from ray import serve

    return {name: one for name, one in serve.status().applications.items() if is_ours(name)}


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
    return (_own_errors(text) or _lines(text))[-1]


def _error_of(text: str) -> StartError:
    """Return the error of a failed start: one of this stage, or that its process died, if Ray knows no other."""
    own_errors = _own_errors(text)
    if own_errors:
        return StartError(own_errors[-1])
    return LostProcessError(f"its process died or failed while it started ({_lines(text)[-1]}): see the server's log")


def _own_errors(text: str) -> list[str]:
    """Return the messages of this stage's errors in a traceback."""
    return [line.split(": ", 1)[1] for line in _lines(text) if line.startswith("serving.errors.") and ": " in line]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]
