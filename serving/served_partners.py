"""Calls the other models of a server through Ray Serve."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from export.feeds import Feeds
from serving.application_names import application_name
from serving.batching import Tensors
from serving.errors import DeadlineError, NotFoundError, ServingError, UnavailableError
from serving.logs import REQUEST_ID
from serving.served import Served
from zorse_common.errors import printable

T = TypeVar("T")


class ServedPartners:
    """The models of a server, each an application of Ray Serve, for the model `name` of them, or for the gateway.

    A call whose request has no deadline may take `timeout_s`.
    """

    def __init__(self, served: Callable[[], Served], name: str | None, timeout_s: float) -> None:
        self._served = served
        self._name = name
        self._timeout_s = timeout_s
        self._handles: dict[str, DeploymentHandle] = {}

    @property
    def default(self) -> str | None:
        """See `Partners.default`."""
        return None if self._name is None else self._served().partners.get(self._name)

    async def run_all(self, model: str, planned: Sequence[Feeds], seconds: float | None) -> list[Tensors]:
        """See `Partners.run_all`. A model without a live replica is an `UnavailableError`."""
        feeds = [dict(one) for one in planned]
        return await self._call(model, seconds, lambda handle, limit: handle.run_all.remote(feeds, limit))

    async def answer(self, model: str, method: str, content: bytes, seconds: float | None) -> bytes:
        """Return a model's answer to a call of gRPC: see `serving.grpc.calls.OtherModels`."""
        stated = REQUEST_ID.get()
        return await self._call(
            model, seconds, lambda handle, limit: handle.answer.remote(method, content, limit, stated)
        )

    async def _call(
        self,
        model: str,
        seconds: float | None,
        call: Callable[[DeploymentHandle, float], Awaitable[T | ServingError]],
    ) -> T:
        """Return the result of `call` with the model's handle and the seconds that it may take."""
        if model not in self._served().names:
            names = ", ".join(sorted(self._served().names))
            raise NotFoundError(f"there is no model {printable(model)}: the server has {names}")
        limit = self._timeout_s if seconds is None else seconds
        try:
            if model not in self._handles:
                self._handles[model] = serve.get_app_handle(application_name(model))
            # A method of `ModelReplica`. It returns its errors, because Ray would put its own around them.
            async with asyncio.timeout(limit):
                outcome = await call(self._handles[model], limit)
        except TimeoutError as error:
            raise DeadlineError(f"the model {model} did not answer within {limit:.3g} s") from error
        except (RayActorError, RayServeException) as error:
            raise UnavailableError from error
        if isinstance(outcome, ServingError):
            raise outcome
        return outcome
