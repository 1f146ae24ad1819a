"""Builds the Ray Serve applications of a model and of the gateway, here and from the arguments of a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from ray.serve import Application

from serving.config import GatewaySettings, ModelSettings, Replicas, Settings
from serving.deployment import GatewayReplica, ModelReplica, application
from serving.errors import StartError
from serving.scaling import OngoingWork

T = TypeVar("T", bound=Settings)


def model(arguments: dict[str, Any]) -> Application:
    """Return the application of the model with these `ModelSettings`.

    Raises:
        StartError: an argument is unknown, missing or not legal.
    """
    return model_application(_settings(ModelSettings, arguments))


def gateway(arguments: dict[str, Any]) -> Application:
    """Return the application of the gateway with these `GatewaySettings`.

    Raises:
        StartError: an argument is unknown, missing or not legal.
    """
    return gateway_application(_settings(GatewaySettings, arguments))


def model_application(settings: ModelSettings, running: int = 0) -> Application:
    """Return a model's application. The same artifact and settings make the same one, of which no replica starts anew.

    Of another one as many replicas start beside the `running` old ones, which stop when the new ones run.
    """
    return application(ModelReplica, model_options(settings.replicas, settings.resources, running), settings)


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


def gateway_application(settings: GatewaySettings) -> Application:
    """Return the gateway's application."""
    options = {"num_replicas": 1, "ray_actor_options": {"num_cpus": settings.cpus}}
    return application(GatewayReplica, options, settings)


def _settings(kind: type[T], arguments: dict[str, Any]) -> T:
    try:
        return kind.model_validate(arguments)
    except ValidationError as error:
        first = error.errors()[0]
        # The value is left out: it may be a key that was written here by mistake.
        raise StartError(f"the argument {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
