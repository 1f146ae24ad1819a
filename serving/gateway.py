"""The gateway as another process of the server calls it, which is connected to its Ray."""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle

from serving.application_names import GATEWAY, GATEWAY_DEPLOYMENT
from serving.reports import Report
from serving.served import Served

_CALL_SECONDS = 5.0


class Gateway:
    """The methods of `GatewayReplica`, called through Ray Serve. Each raises what Ray raises if there is no gateway."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, GATEWAY)

    def tell(self, served: Served) -> None:
        """State what is served, on a cluster."""
        self._handle.tell.remote(served).result(timeout_s=_CALL_SECONDS)

    def report(self, report: Report) -> None:
        """Report numbers, on a cluster."""
        self._handle.report.remote(report).result(timeout_s=_CALL_SECONDS)
