"""Serving on Ray clusters that are not the server's own: `serve deploy` of a printed configuration, and `--address`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import yaml
from ray import serve

import zorse
from serving.client import Client
from serving.errors import UnauthorizedError
from serving.ports import free_port
from serving.readings import Readings, parse
from tests.cluster.commands import Started, started
from tests.cluster.load import Load
from tests.cluster.serve_cluster import ServeCluster, serve_cluster
from tests.cluster.test_following import BODY, publish
from tests.s3 import s3_server
from tests.serving import triton_http
from tests.serving.tiny import write_repository
from zorse_common.storage import Storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

KEY = "a-key-of-the-nodes"
BUCKET = "s3://zorse-served"
REPOSITORY = f"{BUCKET}/repository"


def wait_until(done: Callable[[], bool]) -> None:
    """Wait until `done`, a question that takes a moment itself."""
    end = time.monotonic() + 300
    while not done():
        assert time.monotonic() < end, "still waiting"


class Server:
    """A server at a port of this machine."""

    def __init__(self, port: int, key: str | None = None) -> None:
        self.port, self.url, self.key = port, f"http://127.0.0.1:{port}", key

    def get(self, path: str) -> httpx.Response | None:
        """Return the answer, or None while nobody listens."""
        try:
            return httpx.get(f"{self.url}{path}", timeout=10, headers={"X-API-Key": self.key} if self.key else {})
        except httpx.TransportError:
            return None

    def status(self, path: str) -> int | None:
        answer = self.get(path)
        return None if answer is None else answer.status_code

    def models(self) -> dict[str, int]:
        answer = self.get("/v2/models")
        return {} if answer is None or not answer.is_success else {one["name"]: one["version"] for one in answer.json()}

    def readings(self) -> Readings:
        answer = self.get("/metrics")
        assert answer is not None
        return parse(answer.raise_for_status().text)

    def wait_until_ready(self) -> None:
        wait_until(lambda: self.status("/v2/health/ready") == 200)


@contextmanager
def foreign(address: str, port: int) -> Iterator[None]:
    """Run an application of somebody else on the cluster, which starts Ray Serve there on this port."""

    @serve.deployment(ray_actor_options={"num_cpus": 0})
    class Foreign:
        def __call__(self, request: Any) -> str:
            return "foreign"

    ray.init(address, log_to_driver=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(Foreign.bind(), name="foreign", route_prefix="/foreign")
        yield
    finally:
        ray.shutdown()


@contextmanager
def serving(cluster: ServeCluster, folder: Path, *words: str) -> Iterator[Started]:
    """Run `zorse serve` on the cluster, where each process reserves a part of a CPU."""
    with started(folder, "serve", *words, "--address", cluster.address, "--cpus", "0.5") as command:
        yield command


def end(command: Started) -> None:
    command.send(signal.SIGINT, "process")
    assert command.process.wait() == 0, command.log
    command.wait_until(lambda: not command.left(), running=False)


def test_server_on_a_cluster_of_others_leaves_them_as_they_were(tmp_path: Path) -> None:
    repository = write_repository(tmp_path / "repository")
    (repository / "invert").rename(tmp_path / "invert")
    port = free_port()
    server = Server(port)
    with serve_cluster(tmp_path / "cluster", 1, has_dashboard=False) as cluster, foreign(cluster.address, port):
        with serving(cluster, tmp_path / "run", str(repository)) as command:
            command.wait_until(lambda: "docs" in command.log)
            assert f"http://127.0.0.1:{port}/v2/models/digits" in command.log
            assert (server.status("/v2/health/ready"), server.models()) == (200, {"digits": 1})
            assert server.status("/foreign") == 200
            with Client(server.url) as client:
                images = client.generate("digits", 2, seed=5)
            np.testing.assert_array_equal(images, zorse.load(repository / "digits").generate(2, seed=5))
            wait_until(lambda: server.readings().total("zorse_rows_total", model="digits") == 2)
            end(command)
        assert [server.status(path) for path in ("/foreign", "/v2")] == [200, 404]
        assert list(serve.status().applications) == ["foreign"]


@pytest.fixture(scope="module")
def s3_log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The log of an S3 server with the models."""
    folder = tmp_path_factory.mktemp("s3")
    repository = write_repository(tmp_path_factory.mktemp("models") / "repository")
    with s3_server(folder, BUCKET):
        upload(repository)
        yield folder / "log"


def upload(repository: Path) -> None:
    for name in Storage(repository).tree().sizes:
        Storage(REPOSITORY).write(name, (repository / name).read_bytes())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, s3_log: Path) -> Iterator[ServeCluster]:
    """A cluster of two nodes that know the key."""
    with serve_cluster(tmp_path_factory.mktemp("cluster"), 2, FACES_KEY=KEY) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


def config(cluster: ServeCluster, port: int, *options: str) -> str:
    """Return the printed configuration."""
    words = ("--device", "cpu", "--cpus", "0.5", "--port", str(port))
    return cluster.zorse("serve", "config", REPOSITORY, *words, *options)


def fetches(s3_log: Path, version: int) -> int:
    """Return how often the graph of a version of `digits` was fetched."""
    return s3_log.read_text().count(f"GET /zorse-served/repository/digits/{version}/model.onnx ")


@pytest.mark.soak
def test_printed_configuration_serves_a_repository_on_an_object_store(cluster: ServeCluster, port: int) -> None:
    cluster.deploy(config(cluster, port, "--insecure"))
    server = Server(port)
    server.wait_until_ready()
    triton_http.run_all(server.url, loads=False)
    with Client(server.url) as client:
        source = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        np.testing.assert_array_equal(client.translate("invert", source), 255 - source)
        assert len(client.generate("digits", 3, seed=1)) == 3
        assert {model["name"] for model in client.models()} == {"digits", "invert"}


@pytest.mark.soak
def test_new_configuration_updates_under_load_and_is_fetched_once_by_each_node(
    cluster: ServeCluster, port: int, s3_log: Path, tmp_path: Path
) -> None:
    server = Server(port)
    publish(tmp_path / "repository", "digits", 2)
    upload(tmp_path / "repository")
    printed = config(cluster, port, "--insecure", "--replicas", "4")
    here = fetches(s3_log, 2)
    with Load(port, "/v2/models/digits/infer", BODY, clients=4).running() as load:
        cluster.deploy(printed)
        wait_until(lambda: server.models() == {"digits": 2, "invert": 1})
        server.wait_until_ready()
        wait_until(lambda: server.readings().by("version", "zorse_replicas", model="digits") == {"2": 4})
    assert {answer.status for answer in load.answers} == {200}
    digest = next(one["args"]["digest"] for one in yaml.safe_load(printed)["applications"] if "digits/2" in str(one))
    assert cluster.caches(digest) == ["node0", "node1"]
    assert fetches(s3_log, 2) - here == 2


@pytest.mark.soak
def test_keys_are_those_of_the_nodes(cluster: ServeCluster, port: int) -> None:
    printed = yaml.safe_load(config(cluster, port))
    for application in printed["applications"]:
        application["args"]["access"]["keys_from"] = {"variable": "FACES_KEY"}
    cluster.deploy(yaml.safe_dump(printed))
    server = Server(port, KEY)
    wait_until(lambda: Server(port).status("/v2/models") == 401 and server.status("/v2/models") == 200)
    server.wait_until_ready()
    with Client(server.url, KEY) as client:
        client.generate("digits", 1)
    with Client(server.url, "another") as client, pytest.raises(UnauthorizedError):
        client.generate("digits", 1)
    missing = yaml.safe_load(json.dumps(printed).replace("FACES_KEY", "NO_SUCH_KEY"))
    cluster.deploy(yaml.safe_dump(missing))
    wait_until(lambda: "NO_SUCH_KEY is not set on this node" in cluster.serve_status())


@pytest.mark.soak
def test_models_stay_after_detach_until_they_are_removed(cluster: ServeCluster, port: int, tmp_path: Path) -> None:
    cluster.remove_all()
    with serving(cluster, tmp_path / "run", REPOSITORY, "--detach") as command:
        assert command.process.wait() == 0, command.log
    server = Server(port)
    assert server.status("/v2/health/ready") == 200
    with serving(cluster, tmp_path / "second", REPOSITORY) as command:
        assert command.process.wait() == 1
        assert "the cluster serves zorse already" in command.log
    assert server.status("/v2/health/ready") == 200
    assert "removed zorse, zorse.digits" in cluster.zorse("serve", "stop", "--address", cluster.address)
    assert server.status("/v2/health/ready") == 404


@pytest.mark.soak
def test_server_on_a_cluster_follows_its_repository(cluster: ServeCluster, port: int, tmp_path: Path) -> None:
    cluster.remove_all()
    server = Server(port)
    repository = tmp_path / "repository"
    publish(repository, "faces", 1)
    words = (str(repository), "--follow", "--follow-interval", "0.2")
    with serving(cluster, tmp_path / "run", *words) as command:
        command.wait_until(lambda: server.models() == {"faces": 1})
        publish(repository, "faces", 2)
        command.wait_until(lambda: server.models() == {"faces": 2})
        publish(repository, "faces", 3, broken=True)
        command.wait_until(lambda: "update refused" in command.log)
        assert server.models() == {"faces": 2}
        wait_until(
            lambda: server.readings().by("outcome", "zorse_updates_total") == {"done": 1, "refused": 1},
        )
        end(command)
    assert server.status("/v2/models") == 404
