"""The API key of a server."""

from __future__ import annotations

import pytest

from tests.serving.apps import server


@pytest.mark.parametrize("headers", [{"X-API-Key": "k3y"}, {"Authorization": "Bearer k3y"}])
def test_api_key_opens_every_route(headers: dict[str, str]) -> None:
    client = server(api_key="k3y")
    for path in ("/v2/models", "/v2/models/digits", "/docs"):
        assert client.get(path, headers=headers).status_code == 200


def test_api_key_may_have_any_letters() -> None:
    client = server(api_key="schlüssel")
    assert client.get("/v2/models", headers={"X-API-Key": "schlüssel".encode()}).status_code == 200
    assert client.get("/v2/models", headers={"X-API-Key": "schlussel"}).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "nope"}, {"Authorization": "Bearer"}, {"X-API-Key": ""}])
def test_routes_except_health_require_the_api_key(headers: dict[str, str]) -> None:
    client = server(api_key="k3y")
    assert client.get("/v2/health/live", headers=headers).status_code == 200
    for path in ("/v2/models", "/v2/models/digits", "/v2/models/digits/docs", "/nothing"):
        response = client.get(path, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
