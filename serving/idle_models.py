"""What the gateway answers about models in their place: a model may have no replica, and a question starts none."""

from __future__ import annotations

from collections.abc import Callable, Collection

from starlette.types import ASGIApp, Receive, Scope, Send

from export.manifest import Manifest
from serving.errors import UnavailableError
from serving.served import Served

IDLE_PREFIX = "/-/idle"
"""What `serving.ray_proxy` sets before the path of a question about a model. Clients reach no such path."""
_MODELS = "/v2/models/"


class IdleModels:
    """The application for paths that begin with `IDLE_PREFIX`.

    `describe` returns an application that answers questions about a model from its manifest, under the usual paths.
    `not_ready` returns the names of the models that cannot answer, and `others` has the routes of the server.
    """

    def __init__(
        self,
        served: Callable[[], Served],
        not_ready: Callable[[], Collection[str]],
        describe: Callable[[Manifest], ASGIApp],
        others: ASGIApp,
    ) -> None:
        self._served, self._not_ready, self._describe, self._others = served, not_ready, describe, others
        self._described: dict[str, tuple[str, ASGIApp]] = {}
        """By model, the JSON of its manifest, and its application."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises UnavailableError if the model cannot answer."""
        path = scope["path"].removeprefix(IDLE_PREFIX)
        name = path.removeprefix(_MODELS).partition("/")[0]
        text = self._served().manifests.get(name)
        app = self._others if text is None else self._application(name, text)
        await app({**scope, "path": path, "root_path": ""}, receive, send)

    def _application(self, name: str, text: str) -> ASGIApp:
        if name in self._not_ready():
            raise UnavailableError
        known = self._described.get(name)
        if known is None or known[0] != text:
            known = self._described[name] = text, self._describe(Manifest.from_json(text))
        return known[1]


def is_question(method: str, path: str) -> bool:
    """Return whether a request asks about a model, and runs none."""
    return method in ("GET", "HEAD") and path.startswith(_MODELS)
