"""Each fault is provoked in a run: the watchdog reports it and takes the configured action."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.fitting import Job, action, events, fit_ranks, metrics
from trainer.progress_actor import RunAction

BATCH = 4


def _config(folder: Path, watchdog: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    networks = {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    }
    run = {"total_images": 40, "log_images": BATCH, "sample_images": 8, "checkpoint_images": BATCH}
    return {
        "run": run | {"dir": str(folder)},
        "batch": {"global_size": BATCH},
        "data": {"type": "digits", "size": 16},
        "task": {"type": "gan", **networks, **task},
        "watchdog": watchdog,
    }


EXPLODING = {"generator_optimizer": {"type": "sgd", "lr": 1e30}}
WINNING = {"loss": {"type": "hinge"}, "generator_optimizer": {"lr": 1e-9}, "discriminator_optimizer": {"lr": 0.02}}
QUIET = {"won_margin": 1.0, "won_images": 1000, "diversity": 0.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("watched")
    cases = {
        "warn": (QUIET | {"action": "warn"}, EXPLODING),
        "stop": (QUIET | {"action": "stop"}, EXPLODING),
        "won": (QUIET | {"action": "stop", "won_margin": 0.5, "won_images": 12}, WINNING),
        # Untrained samples are all but equal greys.
        "collapsed": (QUIET | {"action": "roll_back", "diversity": 0.9}, {"generator_optimizer": {"lr": 1e-9}}),
        # The first step's weights are huge but finite, so there is a checkpoint to restore.
        "roll-back": (QUIET | {"action": "roll_back", "rollbacks": 2}, EXPLODING),
        "well": (QUIET | {"action": "stop"}, {}),
    }
    fit_ranks([Job(_config(folder / name, *case)) for name, case in cases.items()], 2)
    return folder


def _warnings(run: Path) -> list[str]:
    return [event.removeprefix("watchdog: ") for event in events(run) if event.startswith("watchdog: ")]


@pytest.mark.slow
def test_watchdog_leaves_a_healthy_run_alone(runs: Path) -> None:
    assert _warnings(runs / "well") == []
    assert action(runs / "well") is RunAction.CONTINUE


@pytest.mark.slow
def test_watchdog_names_once_what_is_not_finite(runs: Path) -> None:
    (warning,) = _warnings(runs / "warn")
    assert warning.endswith(": not a finite number")
    assert action(runs / "warn") is RunAction.CONTINUE
    assert max(metrics(runs / "warn")) == 40


@pytest.mark.slow
def test_checkpoints_hold_only_finite_numbers(runs: Path) -> None:
    refused = [event for event in events(runs / "warn") if "is not finite" in event]
    assert refused
    assert all(event.startswith("no checkpoint at ") for event in refused)


@pytest.mark.slow
def test_watchdog_stop_ends_the_run(runs: Path) -> None:
    assert action(runs / "stop") is RunAction.STOP
    assert (runs / "stop" / "reason.txt").read_text().endswith(": not a finite number")
    assert max(metrics(runs / "stop")) < 40


@pytest.mark.slow
def test_watchdog_detects_a_discriminator_that_has_won(runs: Path) -> None:
    (warning,) = _warnings(runs / "won")
    assert warning.startswith("D has distinguished real from generated images for ")
    assert action(runs / "won") is RunAction.STOP


@pytest.mark.slow
def test_watchdog_detects_collapsed_samples_and_needs_an_earlier_checkpoint(runs: Path) -> None:
    warning, last = _warnings(runs / "collapsed")
    assert warning.startswith("samples are nearly equal (mean distance as a share of the real images': image 0.")
    assert last == "there is no checkpoint of at most 0 images to restore"
    starts = [event for event in events(runs / "collapsed") if event.startswith("training")]
    assert starts == ["training from image 0 on with 2 workers on cpu"]
    assert action(runs / "collapsed") is RunAction.STOP
    assert (runs / "collapsed" / "reason.txt").read_text() == last


@pytest.mark.slow
def test_rollback_continues_from_before_the_fault_with_another_seed(runs: Path) -> None:
    assert [event for event in events(runs / "roll-back") if event.startswith("training")] == [
        "training from image 0 on with 2 workers on cpu",
        "training from image 4 on with 2 workers on cpu",
        "training from image 4 on with 2 workers on cpu",
    ]
    assert len(_warnings(runs / "roll-back")) == 3
    assert _warnings(runs / "roll-back")[-1].endswith(", after 2 rollbacks")
    assert action(runs / "roll-back") is RunAction.STOP
