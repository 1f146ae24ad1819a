"""A node of a cluster is lost while programs send requests to its models."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from serving.ports import free_port
from tests.cluster.client_load import ClientLoad
from tests.cluster.commands import started
from tests.cluster.serve_cluster import serve_cluster
from tests.cluster.test_server import OF_CLIENTS
from tests.serving.tiny import write_repository

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.soak, pytest.mark.timeout(900)]


def test_lost_node_fails_no_request_of_a_client_that_repeats(tmp_path: Path) -> None:
    repository, port = write_repository(tmp_path / "repository"), free_port()
    words = ("serve", str(repository), "--replicas", "2", "--cpus", "0.5", "--port", str(port), "--address")
    with (
        serve_cluster(tmp_path / "cluster", 2) as cluster,
        started(tmp_path / "command", *words, cluster.address) as command,
    ):
        command.wait_until(lambda: "docs" in command.log)
        load = ClientLoad(f"http://127.0.0.1:{port}", OF_CLIENTS)
        with load.running():
            load.wait_for(300)
            lost = cluster.lose_node()
            load.wait_for(1500)
        sys.stdout.write(f"a node lost: {load.summary()}\n")
        assert any("ServeReplica:zorse." in name for name in lost), lost
        assert load.failed("sync", "async") == [], load.summary()
        once = [answer for answer in load.answers if answer.client == "once"]
        # What is on its way to the node when it dies cannot be saved by the server.
        assert len(load.failed("once")) <= max(load.clients, len(once) / 1000), load.summary()
        command.send(signal.SIGTERM, "process")
        assert command.process.wait() == 0, command.log
