"""Replicas are killed at random while programs send requests through the clients of the package."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.client_load import ClientLoad
from tests.cluster.test_server import Server, served

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]

REQUESTS = [
    {"verb": "generate", "model": "digits", "n": 1},
    {"verb": "translate", "model": "invert", "image": np.zeros((16, 16, 3), np.uint8)},
]
SOAK_SECONDS = 180


@pytest.mark.parametrize("seconds", [10, pytest.param(SOAK_SECONDS, marks=pytest.mark.soak)])
def test_killed_replicas_fail_no_request_of_a_client_that_repeats(seconds: float, tmp_path: Path) -> None:
    with served(tmp_path) as server:
        load = ClientLoad(f"http://127.0.0.1:{server.port}", REQUESTS)
        with load.running():
            load.wait_for(50)
            kills = kill_at_random(server, load, seconds)
            load.wait_for(50)
    sys.stdout.write(f"{kills} kills: {load.summary()}\n")
    assert load.failed("sync", "async") == [], load.summary()
    once = [answer for answer in load.answers if answer.client == "once"]
    # A request whose answer has begun when its replica dies cannot be saved by the server.
    assert len(load.failed("once")) <= max(1, len(once) / 1000), load.summary()


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
