"""Calls the other models of a server through Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from export.feeds import Feeds
from serving.batching import Tensors
from serving.errors import DeadlineError, NotFoundError, OverloadedError, ServingError
from zorse_common.errors import printable

_LONGEST_SECONDS = 60.0
"""How long a call may take whose request has no deadline."""


class ServedPartners:
    """The models `names` of a server, each an application of Ray Serve; `default` is the partner of one of them."""

    def __init__(self, names: Collection[str], default: str | None) -> None:
        self.default = default
        self._names = names
        self._handles: dict[str, DeploymentHandle] = {}

    async def run_feeds(self, model: str, feeds: Feeds, seconds: float | None) -> Tensors:
        """See `Partners.run_feeds`. A model without a live replica is an `OverloadedError`."""
        if model not in self._names:
            raise NotFoundError(
                f"there is no model {printable(model)}: the server has {', '.join(sorted(self._names))}"
            )
        if model not in self._handles:
            self._handles[model] = serve.get_app_handle(model)
        limit = _LONGEST_SECONDS if seconds is None else seconds
        try:
            # The method of `ModelReplica`. It returns its errors, because Ray would put its own around them.
            async with asyncio.timeout(limit):
                outcome: Tensors | ServingError = await self._handles[model].run_feeds.remote(dict(feeds), limit)
        except TimeoutError as error:
            raise DeadlineError(f"the model {model} did not answer within {limit:.3g} s") from error
        except (RayError, RayServeException) as error:
            raise OverloadedError(f"the model {model} cannot answer at this moment: try again") from error
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome
