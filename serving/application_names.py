"""The names of a server's applications and deployments on a Ray cluster, which may run applications of others too."""

from __future__ import annotations

GATEWAY = "zorse"
"""The application of the server-level routes."""
GATEWAY_ROUTE = "/"
GATEWAY_DEPLOYMENT = "gateway"
MODEL_DEPLOYMENT = "model"


def application_name(model: str) -> str:
    """Return the name of a model's application."""
    return f"{GATEWAY}.{model}"


def model_route(model: str) -> str:
    """Return the path before those of a model's routes."""
    return f"/v2/models/{model}"


def is_ours(application: str) -> bool:
    """Return whether an application of the cluster is the gateway or that of a model."""
    return application == GATEWAY or application.startswith(f"{GATEWAY}.")
