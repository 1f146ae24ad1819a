"""Who may use the server: API keys."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from serving.errors import UnauthorizedError


class Access:
    """Checks the API key of requests. Health routes need none."""

    def __init__(self, api_key: str | None) -> None:
        self._api_key = api_key

    def check(self, path: str, headers: Mapping[str, str]) -> None:
        """Refuse a request without the key; `headers` have lower-case names.

        Raises:
            UnauthorizedError: the key is missing or wrong.
        """
        if self._api_key is None or path.startswith("/v2/health/"):
            return
        key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode("latin-1"), self._api_key.encode()):
            raise UnauthorizedError("this server requires its API key, as 'Authorization: Bearer …' or 'X-API-Key: …'")
