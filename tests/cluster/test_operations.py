"""Metrics, statistics, ids, the log, keys and status of a real server with two replicas."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import psutil
import pytest

from serving.keys import new_key
from serving.ports import free_port
from serving.readings import MEMORY, Readings, parse
from tests.cluster.commands import Started, started
from tests.serving.tiny import generator_graph, generator_manifest, write

pytestmark = [pytest.mark.ray, pytest.mark.slow]

KEY, LINE = new_key("tester")
LIMITED, LIMITED_LINE = new_key("limited", "2/h")


@pytest.fixture(scope="module", params=["haproxy", pytest.param("ray", marks=pytest.mark.soak)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Started, str]]:
    """Yield a server and its URL."""
    folder = tmp_path_factory.mktemp("operations")
    write(folder / "repository", generator_graph(), generator_manifest("digits"))
    keys = folder / "keys.yaml"
    keys.write_text(f"{LINE}\n{LIMITED_LINE}\n", encoding="utf-8")
    keys.chmod(0o600)
    port = free_port()
    words = ("serve", str(folder / "repository"), "--port", str(port), "--keys", str(keys), "--proxy", request.param)
    with started(folder / "server", *words, "--replicas", "2", "--access-log", "--max-body", "100000") as command:
        command.wait_until(lambda: f"http://127.0.0.1:{port}/docs" in command.log)
        yield command, f"http://127.0.0.1:{port}"
        command.send(signal.SIGTERM, "process")
        assert command.process.wait() == 0
        command.wait_until(lambda: not command.left(), running=False)


@pytest.fixture
def client(server: tuple[Started, str]) -> Iterator[httpx.Client]:
    """Yield a client with a key."""
    with httpx.Client(base_url=server[1], headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client


def readings(client: httpx.Client) -> Readings:
    return parse(client.get("/metrics").raise_for_status().text)


def made(client: httpx.Client) -> float:
    return readings(client).total("zorse_rows_total", model="digits")


def statistics(client: httpx.Client, path: str) -> dict[str, Any]:
    (entry,) = client.get(path).raise_for_status().json()["model_stats"]
    return dict(entry)


def generate(client: httpx.Client, times: int) -> int:
    """Make one image `times` times on new connections, and return how many were made."""
    answers = [
        httpx.post(f"{client.base_url}/v2/models/digits/generate?n=1", headers=client.headers, timeout=30)
        for _ in range(times)
    ]
    return sum(answer.is_success for answer in answers)


def log_lines(command: Started) -> list[dict[str, Any]]:
    return [json.loads(line) for line in command.log.splitlines() if line.startswith("{")]


def test_numbers_are_those_of_all_replicas_and_outlive_a_killed_one(
    server: tuple[Started, str], client: httpx.Client
) -> None:
    before = made(client)
    assert generate(client, 40) == 40
    now = readings(client)
    assert made(client) == before + 40
    assert now.total("zorse_replicas", model="digits") == 2
    processes = now.by("process", MEMORY, model="digits")
    assert len(processes) == 2
    for path in ("/v2/models/stats", "/v2/models/digits/stats"):
        entry = statistics(client, path)
        assert (entry["inference_count"], entry["inference_stats"]["success"]["count"]) == (before + 40, before + 40)
    killed = next(iter(processes))
    os.kill(int(killed), signal.SIGKILL)

    def is_replaced() -> bool:
        living = readings(client).by("process", MEMORY, model="digits")
        return len(living) == 2 and killed not in living

    server[0].wait_until(is_replaced)
    assert made(client) == before + 40


def test_answers_repeat_the_id_of_the_request(server: tuple[Started, str], client: httpx.Client) -> None:
    for path in ("/v2", "/v2/models/digits", "/v2/models/none"):
        answer = client.get(path, headers={"X-Request-Id": "my-id"})
        assert answer.headers.get_list("x-request-id") == ["my-id"]
        (made_up,) = client.get(path).headers.get_list("x-request-id")
        assert len(made_up) >= 32
    server[0].wait_until(lambda: any(line.get("request_id") == made_up for line in log_lines(server[0])))


def test_log_is_json_on_standard_error_and_has_no_key(server: tuple[Started, str], client: httpx.Client) -> None:
    client.post("/v2/models/digits/generate?n=1", headers={"X-Request-Id": "logged"})
    command = server[0]
    command.wait_until(lambda: any(line.get("request_id") == "logged" for line in log_lines(command)))
    line = next(line for line in log_lines(command) if line.get("request_id") == "logged")
    assert (line["model"], line["version"], line["route"], line["status"]) == ("digits", 1, "generate", 200)
    assert KEY not in command.log


def test_keys_are_not_in_arguments_of_processes(server: tuple[Started, str]) -> None:
    arguments = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert any("zorse serve" in line for line in arguments)
    assert not [line for line in arguments if KEY in line or LIMITED in line]


def test_rate_of_a_key_ends_in_429(client: httpx.Client) -> None:
    # Each of the two replicas lets one request pass.
    path, headers = f"{client.base_url}/v2/models/digits", {"X-API-Key": LIMITED}
    answers = [httpx.get(path, headers=headers) for _ in range(12)]
    assert 1 <= sum(answer.status_code == 200 for answer in answers) <= 2
    last = answers[-1]
    assert (last.status_code, last.json()["code"]) == (429, "rate_limit")
    assert 0 < int(last.headers["retry-after"]) <= 3600


def test_server_on_loopback_refuses_other_hosts(client: httpx.Client) -> None:
    answer = client.get("/v2/models", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_status_command_prints_the_numbers(server: tuple[Started, str], client: httpx.Client) -> None:
    words = [sys.executable, "-m", "zorse", "serve", "status", "--url", server[1], "--json"]
    environment = os.environ | {"ZORSE_API_KEY": KEY}
    result = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    status = json.loads(result.stdout)
    (model,) = status["models"]
    assert (status["ready"], model["name"], model["replicas"]) == (True, "digits", 2)
    assert model["requests"] == statistics(client, "/v2/models/digits/stats")["inference_stats"]["success"]["count"]
    assert model["memory_bytes"] > 2**20


def test_server_refuses_bodies_above_its_limit(client: httpx.Client) -> None:
    path, headers = "/v2/models/digits/generate", {"Content-Type": "application/json"}
    assert client.post(path, content=b'{"n": 1}' + b" " * 90_000, headers=headers).status_code == 200
    answer = client.post(path, content=b'{"n": 1}' + b" " * 200_000, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
