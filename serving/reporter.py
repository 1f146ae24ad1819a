"""A process of a model on a cluster: reports its numbers to the gateway, which answers what is served."""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable
from contextlib import suppress

from prometheus_client.core import Metric
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from serving.application_names import GATEWAY, GATEWAY_DEPLOYMENT
from serving.errors import UnavailableError
from serving.metrics import Numbers
from serving.readings import resident_bytes
from serving.reports import REPORT_SECONDS, Report
from serving.served import Served

_CALL_SECONDS = 5.0
_LAST_SECONDS = 1.0
"""How long the last report may take: the gateway may have stopped before."""


class Reporter:
    """Reports `numbers()` of the process `name` in the background. It has served `first` until the gateway answers."""

    def __init__(self, name: str, numbers: Callable[[], Numbers], first: Served) -> None:
        self._name, self._numbers, self._served = name, numbers, first
        self._gateway = serve.get_deployment_handle(GATEWAY_DEPLOYMENT, GATEWAY)
        self._task: asyncio.Task[None] | None = None

    def served(self) -> Served:
        """Return what is served, as the gateway last said."""
        return self._served

    async def families(self) -> list[Metric]:
        """Return the metrics of all processes of the server: of this one as they are now, of others as last reported.

        Raises:
            UnavailableError: the gateway does not answer.
        """
        try:
            await self._report(_CALL_SECONDS)
            async with asyncio.timeout(_CALL_SECONDS):
                found: list[Metric] = await self._gateway.families.remote()
        except (RayError, RayServeException, TimeoutError) as error:
            raise UnavailableError from error
        return found

    def start(self) -> None:
        """Begin to report, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._keep_reporting())

    async def close(self) -> None:
        """Report for the last time."""
        if self._task is not None:
            self._task.cancel()
        with suppress(Exception):
            await self._report(_LAST_SECONDS, is_last=True)

    async def _keep_reporting(self) -> None:
        while True:
            # Ray raises all kinds while the gateway starts or is replaced: the next report has the same numbers.
            with suppress(Exception):
                await self._report(_CALL_SECONDS)
            await asyncio.sleep(REPORT_SECONDS)

    async def _report(self, seconds: float, *, is_last: bool = False) -> None:
        report = Report(self._name, platform.node(), self._numbers(), resident_bytes(), is_last)
        async with asyncio.timeout(seconds):
            self._served = await self._gateway.report.remote(report)
