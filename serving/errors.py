"""The errors of the serving stage: each has an HTTP status, a stable code, and one clear line."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from serving.haproxy_text import RETRY_SECONDS, UNAVAILABLE
from zorse_common.errors import ZorseError


class ServingError(ZorseError):
    """Base of every error that a user of the serving stage can cause."""

    status: int = 500
    code: str = "internal"
    headers: Mapping[str, str] = MappingProxyType({})

    @property
    def is_internal(self) -> bool:
        """Whether the error is a failure inside the server: clients see neither its text nor its type."""
        return self.status == 500


class InternalError(ServingError):
    """Something failed inside the server. The log has the reason."""

    def __init__(self, message: str = "internal error") -> None:
        super().__init__(message)


class BadRequestError(ServingError):
    """The request is malformed: wrong JSON, tensors, names, or values."""

    status = 400
    code = "bad_request"


class InvalidKeyError(BadRequestError):
    """A key of a verb's request is unknown, missing or not legal."""

    status = 422


class ImageError(ServingError):
    """The bytes are not an image that can be read."""

    status = 415
    code = "bad_image"


class UnsupportedMediaError(ServingError):
    """The body is in a form that the server does not read."""

    status = 415
    code = "unsupported_media"


class ImageSizeError(ServingError):
    """The image is larger than the model takes."""

    status = 422
    code = "image_size"


class TooLargeError(ServingError):
    """The request has more bytes, pixels or images than the server accepts."""

    status = 413
    code = "too_large"


class UnauthorizedError(ServingError):
    """The request lacks the server's API key."""

    status = 401
    code = "unauthorized"
    headers = MappingProxyType({"WWW-Authenticate": "Bearer"})


class ForbiddenError(ServingError):
    """The request is for another host than this machine."""

    status = 403
    code = "forbidden"


class RateLimitError(ServingError):
    """The API key has used up its rate: try again after `retry_after` seconds."""

    status = 429
    code = "rate_limit"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after)}


class NotFoundError(ServingError):
    """There is no such model, verb or route."""

    status = 404
    code = "not_found"


class RefusedError(ServingError):
    """A model is not loaded: the version that the repository names is not sound."""

    status = 409
    code = "refused"


class NotAcceptableError(ServingError):
    """The answer has none of the media types that the client accepts."""

    status = 406
    code = "not_acceptable"


class SlowRequestError(ServingError):
    """The body of the request arrived too slowly."""

    status = 408
    code = "slow_request"
    headers = MappingProxyType({"Connection": "close"})


class UnsupportedError(ServingError):
    """The model cannot do what is requested: a generator does not translate."""

    status = 400
    code = "unsupported"


class MethodNotAllowedError(ServingError):
    """The route does not take the method of the request."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str = "") -> None:
        super().__init__(message)
        self.headers = {"Allow": allow}


class OverloadedError(ServingError):
    """The server has no room for the request: try again after `retry_after` seconds."""

    status = 503
    code = "overloaded"

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(retry_after)}


class UnavailableError(ServingError):
    """The model has no live replica at this moment, because its server starts, stops or replaces it."""

    status = 503
    code = "unavailable"
    headers = MappingProxyType({"Retry-After": str(RETRY_SECONDS)})

    def __init__(self, message: str = UNAVAILABLE) -> None:
        super().__init__(message)


class DeadlineError(ServingError):
    """The request waited longer than the server lets a request wait."""

    status = 504
    code = "deadline"


class ArtifactError(ServingError):
    """An artifact or a repository is missing, incomplete, or contradicts its manifest."""

    code = "artifact"


class EngineError(ServingError):
    """The graph cannot be run: a provider is missing, or onnxruntime refuses."""

    code = "engine"


class StartError(ServingError):
    """The server cannot be started with these settings."""

    code = "start"


class LostProcessError(StartError):
    """A process died before it could say whether the version that it started is sound."""


class KeyFileError(ServingError):
    """A file of API keys cannot be used."""

    code = "keys"


class BenchError(ServingError):
    """A load cannot be sent, or nothing could be measured."""

    code = "bench"


class BatchError(ServingError):
    """A batch job cannot run with these arguments, or was interrupted."""

    code = "batch"


class BatchStoppedError(BatchError):
    """A batch job was stopped by a signal; the same command continues it."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h, as for a training run that was stopped


class OutputError(ServingError):
    """A result cannot be written to the requested file."""

    code = "output"


class ServerError(ServingError):
    """The error that a server answered: its status, code and message."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class UnreachableError(ServerError):
    """No server answers, or its connection was cut."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 0, "unreachable")


def answered_error(message: str, status: int, code: str) -> ServingError:
    """Return the error that a server has answered, of the class for its code.

    It is a `ServerError` if no class here has the code, as for an answer of another server.
    """
    kind = _ANSWERED.get((status, code)) or _ANSWERED.get((None, code))
    if kind is None:
        return ServerError(str(message), status, code)
    error = kind(str(message))
    error.status = status
    return error


def _answered() -> dict[tuple[int | None, str], type[ServingError]]:
    """Return the classes of errors that servers answer by status and code, and by code alone."""
    found: dict[tuple[int | None, str], type[ServingError]] = {}
    for kind in globals().copy().values():
        # Whatever else is a failure inside a server is answered as an InternalError.
        if isinstance(kind, type) and issubclass(kind, ServingError) and (kind.status != 500 or kind is InternalError):
            found[kind.status, kind.code] = kind
            found.setdefault((None, kind.code), kind)
    return found


_ANSWERED = _answered()
