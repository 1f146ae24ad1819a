"""Calls the other models of a server through Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from export.feeds import Feeds
from serving.batching import Tensors
from serving.errors import DeadlineError, NotFoundError, ServingError, UnavailableError
from zorse_common.errors import printable


class ServedPartners:
    """The models `names` of a server, each an application of Ray Serve; `default` is the partner of one of them.

    A call whose request has no deadline may take `timeout_s`.
    """

    def __init__(self, names: Collection[str], default: str | None, timeout_s: float) -> None:
        self.default = default
        self._timeout_s = timeout_s
        self._names = names
        self._handles: dict[str, DeploymentHandle] = {}

    async def run_all(self, model: str, planned: Sequence[Feeds], seconds: float | None) -> list[Tensors]:
        """See `Partners.run_all`. A model without a live replica is an `UnavailableError`."""
        if model not in self._names:
            names = ", ".join(sorted(self._names))
            raise NotFoundError(f"there is no model {printable(model)}: the server has {names}")
        limit = self._timeout_s if seconds is None else seconds
        try:
            if model not in self._handles:
                self._handles[model] = serve.get_app_handle(model)
            # The method of `ModelReplica`. It returns its errors, because Ray would put its own around them.
            async with asyncio.timeout(limit):
                outcome: list[Tensors] | ServingError = await self._handles[model].run_all.remote(
                    [dict(feeds) for feeds in planned], limit
                )
        except TimeoutError as error:
            raise DeadlineError(f"the model {model} did not answer within {limit:.3g} s") from error
        except (RayActorError, RayServeException) as error:
            raise UnavailableError from error
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome
