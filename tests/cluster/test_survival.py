"""A run under a killer ends with the very weights of one that nobody disturbed."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.toys import config, differing, events, toy, workers
from trainer.errors import LaunchError
from trainer.hooks.base import Update
from trainer.launch import cluster
from trainer.run import train

pytestmark = pytest.mark.slow

TOTAL = {"gan": 2400, "cyclegan": 480}
KILLS = 3


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all runs here."""
    with cluster(workers=2):
        yield


class Killer:
    """Kills a random worker each time the run has got past another random image."""

    def __init__(self, total: int) -> None:
        self._random = random.Random(0)
        self._moments = sorted(self._random.sample(range(total // 10, 8 * total // 10), KILLS))
        self.kills = 0

    def __call__(self, update: Update) -> None:
        if self.kills == len(self._moments) or update.seen < self._moments[self.kills]:
            return
        victims = workers()
        if len(victims) < 2:
            return
        try:
            self._random.choice(victims).kill()
            self.kills += 1
        except psutil.NoSuchProcess:
            return


@pytest.mark.parametrize("task", ["gan", "cyclegan"])
def test_a_run_under_a_killer_ends_as_one_that_was_left_alone(tmp_path: Path, task: str) -> None:
    runs = [config(toy(task, tmp_path / name, total_images=TOTAL[task])) for name in ("undisturbed", "disturbed")]
    train(runs[0])
    killer = Killer(TOTAL[task])
    train(runs[1], show=killer)
    assert killer.kills == KILLS
    assert differing(tmp_path / "undisturbed", tmp_path / "disturbed") == []
    assert sum(event.startswith("training from image ") for event in events(tmp_path / "disturbed")) > 1
    assert json.loads((tmp_path / "disturbed" / "run.json").read_text())["state"] == "finished"


def test_workers_that_die_too_often_are_one_clear_error(tmp_path: Path) -> None:
    class Slayer(Killer):
        def __call__(self, update: Update) -> None:
            if update.seen:
                for worker in workers():
                    worker.kill()

    run = config(toy("gan", tmp_path / "run", total_images=100_000, max_failures=0))
    with pytest.raises(LaunchError, match=r"^training failed: worker \d: .*"):
        train(run, show=Slayer(100))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_a_cluster_that_stays_too_small_is_one_clear_error(tmp_path: Path) -> None:
    run = config(toy("gan", tmp_path / "run", total_images=800, workers=8, wait_for_nodes=1))
    with pytest.raises(LaunchError, match=r"workers = 8 needs 8 CPUs and after 1 s .*wait_for_nodes.* has 2"):
        train(run)
