"""Who may use the server: API keys with rate limits, the names under which a local server answers, and CORS."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping

from serving.config import AccessSettings, ApiKey
from serving.errors import ForbiddenError, RateLimitError, UnauthorizedError
from serving.loopback import is_loopback

_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([a-z0-9.]+))(?::\d{1,5})?")
"""A lower-case Host header: an IPv6 address, or else a name or IPv4 address, and maybe a port."""
_CHANGES = "/v2/repository/models/"
"""The start of the paths that load and unload models."""
_PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
    "access-control-allow-headers": "*, Authorization",
    "access-control-max-age": "600",
}


class Access:
    """Checks requests before anything else is done with them. A check takes one to three microseconds.

    Keys are known by their SHA-256 alone. They are 256 random bits, which cannot be guessed from a digest however fast
    the function is; a slow one, as for passwords, would cost every request. The digest of the client's key is looked
    up, so that the time of the check depends on that digest and not on how much of the key is right.

    `processes` processes share each key's rate; each of them lets its part pass. See `share`.
    """

    def __init__(self, settings: AccessSettings, processes: int = 1) -> None:
        self._buckets = {key.sha256: _Bucket(key, processes) for key in settings.keys}
        self._is_local = settings.is_local
        self._origin = None if settings.cors is None else settings.cors.lower()
        self.has_cors = settings.cors is not None
        """Whether answers have headers for browsers, which `preflight` and `cors` return."""
        self.has_rates = any(key.rate is not None for key in settings.keys)

    def share(self, processes: int) -> None:
        """Share each key's rate with so many processes from now on, this one included."""
        for bucket in self._buckets.values():
            bucket.share(processes)

    def check(self, path: str, headers: Mapping[str, str], now: float) -> None:
        """Refuse a request that may not be answered. `headers` have lower-case names; `now` is a clock in seconds.

        Health routes need no key. A preflight request needs none either, as browsers send it without.

        Raises:
            ForbiddenError: the server is local, and the request names another host or is of a page of another origin.
                Or it changes which models run, and neither is there a key nor is the server local.
            UnauthorizedError: the key is missing or wrong.
            RateLimitError: the key has used up its rate.
        """
        if self._is_local and "host" in headers:
            self._check_local(headers["host"].lower(), headers)
        if not self._buckets and path.startswith(_CHANGES):
            self._check_change(headers)
        if not self._buckets or path.startswith("/v2/health/"):
            return
        bucket = self._buckets.get(ApiKey.digest(_key(headers)))
        if bucket is None:
            raise UnauthorizedError("this server requires its API key, as 'Authorization: Bearer …' or 'X-API-Key: …'")
        bucket.take(now)

    def _check_local(self, host: str, headers: Mapping[str, str]) -> None:
        if not _is_local(host):
            raise ForbiddenError(
                f"this server answers to localhost, 127.x.x.x and [::1] only, and the request is for {host[:60]!r}: "
                "a page of another site may have sent it"
            )
        if _is_of_other_page(headers) and not self._is_allowed(headers):
            origin = headers["origin"]
            raise ForbiddenError(f"a page of {origin[:60]!r} sent the request: start the server with --cors for it")

    def _check_change(self, headers: Mapping[str, str]) -> None:
        """Refuse to load or unload a model without a key: for other machines, and for web pages, whatever CORS says."""
        if not self._is_local:
            raise ForbiddenError("other machines reach this server: start it with --keys to load and unload models")
        if _is_of_other_page(headers):
            raise ForbiddenError(
                f"a page of {headers['origin'][:60]!r} sent the request: start the server with --keys to load and "
                "unload models from web pages"
            )

    def preflight(self, method: str, headers: Mapping[str, str]) -> Mapping[str, str] | None:
        """Return the headers that answer a browser's question whether a page may send a request, or None if it is none.

        A server without CORS does not answer such questions.
        """
        is_preflight = method == "OPTIONS" and "access-control-request-method" in headers
        return _PREFLIGHT if is_preflight and self._is_allowed(headers) else None

    def cors(self, headers: Mapping[str, str], vary: str | None = None) -> Mapping[str, str]:
        """Return the headers that let a page of the allowed origin read the answer to its request.

        `vary` is the header of this name that the answer has already.
        """
        allowed = {"vary": f"{vary}, Origin" if vary else "Origin"}
        if self._origin is not None and self._is_allowed(headers):
            allowed |= {"access-control-allow-origin": self._origin, "access-control-expose-headers": "*"}
        return allowed

    def _is_allowed(self, headers: Mapping[str, str]) -> bool:
        return self._origin is not None and self._origin in ("*", headers.get("origin", "").lower())


def _is_of_other_page(headers: Mapping[str, str]) -> bool:
    """Return whether a web page sent the request that this server has not sent."""
    origin = headers.get("origin")
    return origin is not None and origin.lower().rpartition("//")[2] != headers.get("host", "").lower()


@functools.lru_cache(maxsize=64)
def _is_local(host: str) -> bool:
    """Return whether a lower-case Host header names this machine's loopback."""
    match = _HOST.fullmatch(host)
    return match is not None and is_loopback(match[1] or match[2])


def _key(headers: Mapping[str, str]) -> bytes:
    """Return the key of a request, empty if it has none. Headers hold bytes, as which a client has sent UTF-8."""
    key = headers.get("x-api-key")
    if not key:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            return b""
    return key.strip().encode("latin-1")


class _Bucket:
    """A bucket of tokens: each request takes one, and they come back at the key's rate up to the burst."""

    def __init__(self, key: ApiKey, processes: int) -> None:
        self._key = key
        self.share(processes)
        self._tokens = self._burst
        self._updated = -math.inf

    def share(self, processes: int) -> None:
        self._rate = self._key.per_second / processes
        self._burst = max(1.0, self._key.burst / processes)

    def take(self, now: float) -> None:
        if self._rate == math.inf:
            return
        # The first call, after an infinite time, fills the bucket.
        self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        if self._tokens < 1:
            wait = math.ceil((1 - self._tokens) / self._rate)
            raise RateLimitError(f"the key {self._key.name!r} has used up its rate: try again in {wait} s", wait)
        self._tokens -= 1
