"""The gateway as another process of the server calls it, which is connected to its Ray."""

from __future__ import annotations

from ray import serve
from ray.serve.handle import DeploymentHandle

from serving.application_names import GATEWAY, GATEWAY_DEPLOYMENT
from serving.changes import Change
from serving.errors import ServingError
from serving.reports import Report
from serving.served import Served

_CALL_SECONDS = 5.0
"""How long a call may take beyond the time for which it waits."""


class Gateway:
    """The methods of `GatewayReplica`, called through Ray Serve. Each raises what Ray raises if there is no gateway."""

    def __init__(self) -> None:
        self._handle: DeploymentHandle = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, GATEWAY)
        # By default it takes calls only within an event loop, where Ray Serve is set to throughput.
        self._handle._init(_run_router_in_separate_loop=True)

    def tell(self, served: Served) -> None:
        """State what is served, on a cluster."""
        self._handle.tell.remote(served).result(timeout_s=_CALL_SECONDS)

    def report(self, report: Report) -> None:
        """Report numbers, on a cluster."""
        self._handle.report.remote(report).result(timeout_s=_CALL_SECONDS)

    def take(self, seconds: float) -> Change | None:
        """See `serving.following.Asking`."""
        change: Change | None = self._handle.take_change.remote(seconds).result(timeout_s=seconds + _CALL_SECONDS)
        return change

    def answer(self, key: str, error: ServingError | None) -> None:
        """See `serving.following.Asking`."""
        self._handle.answer_change.remote(key, error).result(timeout_s=_CALL_SECONDS)

    def close(self) -> None:
        """Have the gateway refuse the changes that wait and those that come, and end a `take`."""
        self._handle.close_changes.remote().result(timeout_s=_CALL_SECONDS)
