"""What a process of a server knows of the other ones: what is served, and the numbers of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fastapi.concurrency import run_in_threadpool
from prometheus_client.core import Metric

from serving.changes import Ask, no_changes
from serving.config import GatewaySettings, ModelSettings
from serving.readings import families_of, processes_of
from serving.served import Served, served_by, served_with


@dataclass(frozen=True)
class Surroundings:
    """`served` returns what is served now, in a microsecond or two. `families` returns the metrics of all processes.

    `families` may raise a `ServingError`. `ask` loads and unloads models.
    """

    served: Callable[[], Served]
    families: Callable[[], Awaitable[list[Metric]]]
    ask: Ask = no_changes


def in_folder(settings: ModelSettings | GatewaySettings) -> Surroundings:
    """Return the surroundings of a process whose server has a folder. Without one there are no metrics."""

    async def families() -> list[Metric]:
        folder = settings.folder
        return [] if folder is None else await run_in_threadpool(lambda: families_of(processes_of(folder)))

    served = served_by(settings) if isinstance(settings, GatewaySettings) else served_with(settings)
    return Surroundings(served, families)
