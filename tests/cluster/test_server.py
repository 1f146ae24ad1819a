"""A server as a command starts it, with two replicas for each model: its protocols, and what clients get of deaths."""

from __future__ import annotations

import dataclasses
import json
import random
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from serving.client import Client
from serving.errors import NotFoundError
from tests.cluster.client_load import ClientLoad
from tests.cluster.servers import HEAD, PROXIES, Server, fails_hardly, is_orderly_stop, served, stop
from tests.cluster.sockets import is_loopback
from tests.cluster.test_following import Clients, publish
from tests.serving import triton_grpc, triton_http
from tests.serving.fuzz import fuzz
from tests.serving.raw_http import exchange
from tests.serving.test_bad_requests import BAD_REQUESTS
from tests.serving.tiny import (
    conditional_manifest,
    generator_graph,
    inverter_graph,
    inverter_manifest,
    write,
    write_repository,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

INCOMPLETE = (
    (HEAD,),
    (HEAD, b"Content-Length: 100\r\n\r\n{"),
    (HEAD, b"Content-Length: 1000000\r\n\r\n" + bytes(200_000)),
)
OF_CLIENTS = [
    {"verb": "generate", "model": "digits", "n": 1},
    {"verb": "translate", "model": "invert", "image": np.zeros((16, 16, 3), np.uint8)},
]


def write_models(repository: Path) -> None:
    """Write a generator, a conditional generator, and two translators."""
    write_repository(repository)
    write(repository, generator_graph(classes=3), conditional_manifest())
    # Of another run, so that no model has a default partner.
    back = inverter_manifest("revert")
    back = dataclasses.replace(back, provenance=dataclasses.replace(back.provenance, digest="beef"))
    write(repository, inverter_graph(), back)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with served(tmp_path_factory.mktemp("server"), write_models, "--replicas", "2") as running:
        yield running


def test_server_listens_on_loopback_alone(server: Server) -> None:
    ports = server.listening("127.0.0.1")
    assert {place: name for place, name in ports.items() if not is_loopback(place[0])} == {}


def test_server_hides_the_routes_of_ray(server: Server) -> None:
    for path in ("/-/routes", "/-/healthz", "/%2D/routes"):
        answer = server.get(path)
        assert answer is not None
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_folder_and_admin_socket_are_for_their_user_only(server: Server) -> None:
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
    # The server's other files, such as the replicas' sockets and Ray's, are protected by the folder alone.
    assert [stat.S_IMODE(path.stat().st_mode) for path in server.folder.glob("*/s")] == [0o600]
    assert {"haproxy", "r", "t"} <= {path.name for path in server.folder.iterdir()}


def test_every_call_of_tritonclient_over_http_is_answered(server: Server) -> None:
    triton_http.run_all(server.url)


def test_every_call_of_tritonclient_over_grpc_is_answered(server: Server) -> None:
    triton_grpc.run_all(server.grpc_target)


def test_bad_requests_are_refused_in_json_by_whatever_answers(server: Server) -> None:
    wrong = []
    for bad in BAD_REQUESTS:
        status, _, content = exchange(server.url, bad.method, bad.path, bad.headers, bad.body)
        try:
            keys = json.loads(content).keys()
        except ValueError:
            keys = set()
        if not 400 <= status < 500 or keys != {"error", "code"}:
            wrong.append((bad.name, status, content[:100]))
    assert not wrong


def test_cycle_runs_the_partner_in_its_own_replica(server: Server) -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    with Client(server.url) as client:
        answer = client.cycle("invert", image, partner="revert")
        np.testing.assert_array_equal(answer.there, 255 - image)
        np.testing.assert_array_equal(answer.back, image)
        assert answer.l1 == 0
        with pytest.raises(NotFoundError, match="there is no model nobody: the server has classes"):
            client.cycle("invert", image, partner="nobody")


@pytest.mark.parametrize("sent", INCOMPLETE)
def test_incomplete_request_is_answered_408(server: Server, sent: tuple[bytes, ...]) -> None:
    with server.half_sent(*sent) as connection:
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408 ")
    # HAProxy's answer to incomplete headers cannot be changed.
    assert sent == (HEAD,) or b"content-type: application/json" in answer


def test_replica_that_is_killed_fails_hardly_a_request_and_is_logged(server: Server) -> None:
    load, grpc_load, before = server.load(), server.grpc_load(), server.replicas()
    word = f"Worker PID: {before[0].pid} "
    with load.running(), grpc_load.running():
        load.wait_for(300)
        grpc_load.wait_for(300)
        before[0].kill()
        server.command.wait_until(lambda: server.has_replaced({process.pid for process in before}))
        load.wait_for(1000)
        grpc_load.wait_for(1000)
    assert fails_hardly(load.answers), load.summary()
    failed = [answer for answer in grpc_load.answers if answer.code != "OK"]
    assert {answer.code for answer in failed} <= {"UNAVAILABLE"}, grpc_load.summary()
    # Those that the dead process had begun to answer cannot be repeated.
    assert len(failed) <= max(grpc_load.clients, len(grpc_load.answers) / 1000), grpc_load.summary()
    server.command.wait_until(lambda: word in server.command.log)
    told = [line for line in server.command.log.splitlines() if word in line]
    assert [json.loads(line)["level"] for line in told] == ["warning"]


@pytest.mark.parametrize("seconds", [10, pytest.param(180, marks=pytest.mark.soak)])
def test_killed_replicas_fail_no_request_of_a_client_that_repeats(seconds: float, server: Server) -> None:
    load = ClientLoad(server.url, OF_CLIENTS)
    with load.running():
        load.wait_for(50)
        kills = kill_at_random(server, load, seconds)
        load.wait_for(50)
    sys.stdout.write(f"{kills} kills: {load.summary()}\n")
    assert load.failed("sync", "async") == [], load.summary()
    once = [answer for answer in load.answers if answer.client == "once"]
    # A request whose answer has begun when its replica dies cannot be saved by the server.
    assert len(load.failed("once")) <= max(1, len(once) / 1000), load.summary()


def test_haproxy_that_has_died_is_started_again_and_that_is_logged(server: Server) -> None:
    # After a reload the one before may still end.
    for process in server.processes("/haproxy.cfg"):
        process.kill()
    server.command.wait_until(lambda: server.get("/v2") is None)
    server.command.wait_until(server.is_ready)
    (line,) = (line for line in server.command.log.splitlines() if "HAProxy has died" in line)
    assert json.loads(line)["level"] == "error"


def test_gateway_that_has_died_delays_requests_or_asks_to_try_again(server: Server) -> None:
    (process,) = server.processes("ServeReplica:zorse:gateway")
    process.kill()
    answer = httpx.get(f"{server.url}/v2", timeout=60)
    while answer.status_code != 200:
        # The machine was too busy to start the next one within the time for which requests wait.
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "5")
        answer = httpx.get(f"{server.url}/v2", timeout=60)
    assert answer.json()["name"] == "zorse"
    assert process.pid not in [other.pid for other in server.processes("ServeReplica:zorse:gateway")]


def test_server_takes_a_version_when_it_is_asked_to_load_it_and_loses_no_request(server: Server) -> None:
    url, repository = server.url, server.command.folder.parent / "repository"
    publish(repository, "digits", 2)
    publish(repository, "late", 1)
    load, unload = (f"{url}/v2/repository/models/{{}}/{action}" for action in ("load", "unload"))
    with Clients(server.port).running() as clients:
        assert httpx.post(load.format("digits"), timeout=600).json() == {}
        loaded = time.monotonic()
        publish(repository, "digits", 3, broken=True)
        refused = httpx.post(load.format("digits"), timeout=600)
        # A new model, and one that goes, while the clients ask for another.
        assert httpx.post(load.format("late"), timeout=600).is_success
        assert httpx.post(unload.format("late"), timeout=600).is_success
    assert (refused.status_code, refused.json()["code"]) == (409, "refused")
    assert "digits/3 is not loaded" in refused.json()["error"]
    assert "golden" in refused.json()["error"]
    assert {answer.status for answer in clients.answers} == {200}
    assert {answer.version for answer in clients.answers if answer.sent > loaded} == {"2"}
    assert {answer.version for answer in clients.answers} == {"1", "2"}
    index = {(entry["name"], entry["version"]): entry for entry in httpx.post(f"{url}/v2/repository/index").json()}
    assert index["digits", "2"]["state"] == "READY"
    assert index["digits", "3"]["state"] == "UNAVAILABLE"
    assert index["late", "1"]["reason"] == "unloaded"
    answer = httpx.post(f"{url}/v2/models/late/generate")
    assert (answer.status_code, answer.json()["error"]) == (404, "the model late/1 is not served: unloaded")


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_fuzzer_meets_no_failure_and_no_growth_in_ten_minutes(server: Server) -> None:
    report = fuzz(server.url, seconds=600, pid=server.command.process.pid)
    assert not report.failures, "\n".join(report.failures)
    assert report.growth < 20 + 0.1 * report.memory[0], report.memory


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("proxy", PROXIES)
def test_replicas_that_are_killed_again_and_again_fail_hardly_any_nor_does_a_stop(proxy: str, tmp_path: Path) -> None:
    with served(tmp_path, write_repository, "--replicas", "2", proxy=proxy) as server:
        load, slow = server.load(), [server.half_sent(HEAD, b"Content-Length: 100\r\n\r\n{") for _ in range(50)]
        with load.running():
            for _ in range(5):
                load.wait_for(500)
                before = {process.pid for process in server.replicas()}
                server.replicas()[0].kill()
                server.command.wait_until(lambda before=before: server.has_replaced(before))
            load.wait_for(500)
            stopped = stop(server, "process")
        for connection in slow:
            connection.close()
    running = [answer for answer in load.answers if answer.sent < stopped]
    assert fails_hardly(running), load.summary()
    stopping = [answer for answer in load.answers if answer.sent >= stopped]
    assert is_orderly_stop(stopping, stopped, proxy), load.summary()


def kill_at_random(server: Server, load: ClientLoad, seconds: float) -> int:
    """Kill one replica after another for some seconds, each once the one before was replaced; return the number."""
    draw, end, kills = random.Random(0), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        model = draw.choice(["digits", "invert"])
        before = server.replicas(model)
        draw.choice(before).kill()
        kills += 1
        server.command.wait_until(lambda m=model, b=before: server.has_replaced({p.pid for p in b}, m))
        load.wait_for(draw.randrange(1, 100))
    return kills
