"""A run whose workers are killed ends with the weights of an undisturbed run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from tests.cluster.toys import EVERY, config, differing, events, toy, workers
from tests.trainer.fitting import Job, fit_ranks
from trainer.cluster import cluster
from trainer.errors import LaunchError
from trainer.progress_actor import Update
from trainer.run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOTAL = {"gan": 2400, "cyclegan": 480}
KILLS = 2


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """One Ray for all runs here."""
    with cluster(workers=2):
        yield


class Killer:
    """Kills a random worker of each new group, once the run has passed the next random image."""

    def __init__(self, total: int) -> None:
        self._random = random.Random(0)
        self.moments = sorted(self._random.sample(range(total // 4, 8 * total // 10), KILLS))
        self._groups = self._groups_hit = 0
        self.kills = 0

    def __call__(self, update: Update) -> None:
        self._groups += len(starts(update.events))
        if self.kills == KILLS or self._groups == self._groups_hit or update.seen < self.moments[self.kills]:
            return
        try:
            self._random.choice(workers()).kill()
        except (psutil.NoSuchProcess, IndexError):
            return
        self.kills, self._groups_hit = self.kills + 1, self._groups


def starts(lines: Sequence[str]) -> list[int]:
    """Return the numbers of images from which groups of workers trained, in order."""
    return [int(line.split()[3]) for line in lines if line.startswith("training from image ")]


@pytest.mark.parametrize("task", ["gan", pytest.param("cyclegan", marks=pytest.mark.soak)])
def test_run_with_killed_workers_ends_with_the_bits_of_an_undisturbed_run(tmp_path: Path, task: str) -> None:
    undisturbed, disturbed = (toy(task, tmp_path / name, total_images=TOTAL[task]) for name in ("alone", "disturbed"))
    # Without Ray, which must make no difference either.
    fit_ranks([Job(undisturbed)], 2)
    killer = Killer(TOTAL[task])
    train(config(disturbed), show=killer)
    assert killer.kills == KILLS
    assert differing(tmp_path / "alone", tmp_path / "disturbed") == []
    first, *later = starts(events(tmp_path / "disturbed"))
    assert first == 0
    assert len(later) == KILLS
    # A kill costs at most the steps since the last checkpoint, one more of which may be in the making.
    moments = killer.moments
    assert all(start >= moment - 2 * EVERY for start, moment in zip(later, moments, strict=True)), (later, moments)
    assert json.loads((tmp_path / "disturbed" / "run.json").read_text())["state"] == "finished"


def test_workers_that_die_too_often_are_one_clear_error(tmp_path: Path) -> None:
    niceness = set()

    class Slayer(Killer):
        def __call__(self, update: Update) -> None:
            if update.seen:
                for worker in workers():
                    niceness.add(worker.nice())
                    worker.kill()

    run = config(toy("gan", tmp_path / "run", total_images=100_000, max_failures=0))
    with pytest.raises(LaunchError, match=r"^training failed: worker \d: .*"):
        train(run, show=Slayer(100))
    # A worker has the priority of the command itself, which Ray's default would take from it.
    assert niceness == {psutil.Process().nice()}
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "failed"


def test_cluster_that_stays_too_small_is_one_clear_error(tmp_path: Path) -> None:
    run = config(toy("gan", tmp_path / "run", total_images=800, workers=8, wait_for_nodes=1))
    with pytest.raises(LaunchError, match=r"workers = 8 needs 8 CPUs and after 1 s .*wait_for_nodes.* has 2"):
        train(run)
