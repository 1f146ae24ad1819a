"""Bad requests by their method, path, version, host or key, and those of the protocol's extensions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import quote

from tests.serving.bad_request import INFER, BadRequest

REPOSITORY = "/v2/repository/models"


def route(name: str, method: str, path: str, status: int, code: str, word: str, body: bytes = b"{}") -> BadRequest:
    """Return a request to a route that does not exist, or with another method."""
    return BadRequest(name, path, body, status, code, word, method)


def _routes() -> Iterator[BadRequest]:
    for method in ("GET", "PUT", "DELETE", "PATCH"):
        yield route(f"{method} infer", method, INFER, 405, "method_not_allowed", "takes OPTIONS, POST")
    yield route("OPTIONS of an unknown route", "OPTIONS", "/nothing", 404, "not_found", "Not Found")
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        yield route(f"{method} of an unknown model", method, "/v2/models/nothing", 404, "not_found", "it serves digits")
        path = "/v2/models/nothing/infer"
        yield route(f"{method} infer of an unknown model", method, path, 404, "not_found", "it serves digits")
    yield route("POST to metadata", "POST", "/v2/models/digits", 405, "method_not_allowed", "GET")
    yield route("DELETE of a model", "DELETE", "/v2/models/digits", 405, "method_not_allowed", "GET")
    yield route("POST to /v2", "POST", "/v2", 405, "method_not_allowed", "GET")
    for name, path in (
        ("unknown route", "/nothing"),
        ("another protocol's route", "/v1/models/digits:predict"),
        ("unknown route of a model", "/v2/models/digits/nothing"),
        ("unknown model", "/v2/models/nothing/infer"),
        ("model in capitals", "/v2/models/DIGITS/infer"),
        ("model that begins as another", "/v2/models/digits2/infer"),
        ("no model", "/v2/models//infer"),
        ("slash in the model's name", "/v2/models/a%2fdigits/infer"),
        ("dots in the path", "/v2/models/../models/digits/infer"),
        ("encoded dots in the path", "/v2/models/%2e%2e/digits/infer"),
        ("path of a file", "/v2/models/..%2f..%2fetc%2fpasswd"),
        ("NUL in the path", "/v2/models/digits%00/infer"),
        ("bytes in the path that are no UTF-8", "/v2/models/%ff/infer"),
        ("line break in the path", "/v2/models/a%0d%0aX:%20y/infer"),
        ("model's name of 5,000 letters", "/v2/models/" + "a" * 5000),
        ("two slashes at the start", "//v2/models/digits/infer"),
    ):
        yield route(name, "POST", path, 404, "not_found", "")
    for version in ("2", "0", "-1", "01", "1.0", "latest", "9" * 500, "1%20", "%20"):
        path = f"/v2/models/digits/versions/{version}/infer"
        yield route(f"version {version[:10]!r}", "POST", path, 404, "not_found", "version 1 is")
    yield route("no version", "POST", "/v2/models/digits/versions//infer", 404, "not_found", "")


def _extensions() -> Iterator[BadRequest]:
    for name, path, body, word in (
        ("index with text for ready", "/v2/repository/index", {"ready": "yes"}, "give true or false"),
        ("index with a list", "/v2/repository/index", [], "send an object"),
        ("log settings that do not exist", "/v2/logging", {"colour": 1}, "the settings are"),
        ("trace settings that are a number", "/v2/trace/setting", 1, "send an object"),
        ("load with a list", f"{REPOSITORY}/digits/load", [], "send an object"),
        ("load with a list of parameters", f"{REPOSITORY}/digits/load", {"parameters": ["a"]}, "not an object"),
    ):
        yield BadRequest(name, path, json.dumps(body).encode(), 400, "bad_request", word)
    for name, path, body, word in (
        ("load with a configuration", f"{REPOSITORY}/digits/load", {"config": "{}"}, "the parameter config"),
        ("load with a file", f"{REPOSITORY}/digits/load", {"file:1/m": "YQ=="}, "the parameter file:1/m"),
        ("unload with a version", f"{REPOSITORY}/digits/unload", {"version": "1"}, "the parameter version"),
        ("register shared memory", "/v2/systemsharedmemory/region/a/register", {}, "no shared memory"),
    ):
        yield BadRequest(name, path, json.dumps({"parameters": body}).encode(), 400, "unsupported", word)
    for action in ("load", "unload"):
        for model in ("nothing", "..", "digits\x1b", "a" * 200):
            path = f"{REPOSITORY}/{quote(model)}/{action}"
            yield BadRequest(f"{action} of {model[:9]!r}", path, b"", 404, "not_found", "")


def _access() -> Iterator[BadRequest]:
    page = {"origin": "http://example.com"}
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=a", ""):
        headers = page | ({"content-type": kind} if kind else {})
        path = f"{REPOSITORY}/digits/unload"
        yield BadRequest(f"unload by a page, {kind}", path, b"", 403, "forbidden", "a page of", headers=headers)
    for host in ("example.com", "localhost.example.com", "127.0.0.1.example.com", "10.0.0.1", "", "a" * 2000):
        yield BadRequest(f"host {host[:30]!r}", INFER, b"{}", 403, "forbidden", "localhost", headers={"host": host})
    for name, key in (("no key", ""), ("wrong key", "guess"), ("key with bytes that are no ASCII", "\xff\xfe")):
        yield BadRequest(name, INFER, b"{}", 401, "unauthorized", "API key", headers={"x-api-key": key})


BAD_ROUTES = (*_routes(), *_extensions(), *_access())
