"""What the gateway answers about a model without a replica: the same as the model would."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.config import GatewaySettings
from serving.idle_models import IDLE_PREFIX
from serving.served import Served
from tests.serving.apps import server
from tests.serving.tiny import generator_manifest, inverter_manifest

QUESTIONS = (
    "",
    "/config",
    "/ready",
    "/stats",
    "/docs",
    "/openapi.json",
    "/trace/setting",
    "/versions/1",
    "/versions/1/config",
    "/versions/1/ready",
    "/versions/9",
    "/nothing",
)


@pytest.mark.parametrize("path", QUESTIONS)
@pytest.mark.parametrize("model", ["digits", "invert"])
def test_gateway_answers_for_a_model_as_its_replica_does(model: str, path: str, tmp_path: Path) -> None:
    with server(folder=tmp_path) as client:
        own, idle = (client.get(f"{prefix}/v2/models/{model}{path}") for prefix in ("", IDLE_PREFIX))
    assert idle.status_code == own.status_code
    assert idle.text.replace(IDLE_PREFIX, "") == own.text
    assert idle.headers["content-type"] == own.headers["content-type"]


def test_every_question_about_a_model_is_tested() -> None:
    with server() as client:
        paths = client.get("/v2/models/digits/openapi.json").json()["paths"]
    asked = {path.removeprefix("/v2/models/digits") for path, methods in paths.items() if "get" in methods}
    assert asked <= set(QUESTIONS)


def test_gateway_refuses_questions_about_a_model_that_cannot_answer() -> None:
    with server(not_ready=("digits",)) as client:
        response = client.get(f"{IDLE_PREFIX}/v2/models/digits/ready")
        assert (response.status_code, response.json()["code"]) == (503, "unavailable")
        assert client.get(f"{IDLE_PREFIX}/v2/models/invert/ready").is_success


def test_gateway_answers_about_the_models_that_are_served_now(tmp_path: Path) -> None:
    with server(folder=tmp_path) as client:
        assert client.get(f"{IDLE_PREFIX}/v2/models/digits").json()["versions"] == ["1"]
        newer, letters = generator_manifest(version=2), inverter_manifest("letters")
        Served(names=["digits", "letters"], manifests={"digits": newer.to_json(), "letters": letters.to_json()}).write(
            str(tmp_path)
        )
        assert client.get(f"{IDLE_PREFIX}/v2/models/digits").json()["versions"] == ["2"]
        assert client.get(f"{IDLE_PREFIX}/v2/models/letters").is_success
        gone = client.get(f"{IDLE_PREFIX}/v2/models/invert")
        assert (gone.status_code, gone.json()) == (404, client.get("/v2/models/invert9").json() | gone.json())


def test_gateway_answers_other_routes_under_the_prefix_as_without_it() -> None:
    with server() as client:
        own, idle = (client.get(f"{prefix}/v2/models/stats") for prefix in ("", IDLE_PREFIX))
        assert own.json() == idle.json()
        unknown = client.get(f"{IDLE_PREFIX}/v2/models/letters")
        assert (unknown.status_code, "there is no model 'letters'" in unknown.json()["error"]) == (404, True)


def test_manifests_of_the_gateway_survive_its_settings() -> None:
    text = generator_manifest().to_json()
    settings = GatewaySettings(models=(), manifests={"digits": text})
    again = GatewaySettings.model_validate_json(json.dumps(settings.model_dump()))
    assert again.manifests == {"digits": text}
