"""The files and events that hooks write: figures, pictures, TensorBoard's file and speed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.trainer.fitting import Job, events, fit_ranks, metrics
from trainer.hooks.base import Stage

BATCH, STEPS = 4, 20


def _config(folder: Path) -> dict[str, Any]:
    networks = {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    }
    return {
        "run": {"dir": str(folder), "total_images": STEPS * BATCH, "log_images": 2 * BATCH, "sample_images": 40},
        "batch": {"global_size": BATCH},
        "data": {"type": "digits", "size": 16},
        "task": {"type": "gan", **networks},
        "watchdog": {"diversity": 0},
        "evaluation": {
            "metric": {"type": "tests.trainer.brightness:Brightness"},
            "interval_images": 40,
            "images": 10,
            "batch": 3,
        },
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on two ranks."""
    folder = tmp_path_factory.mktemp("run")
    fit_ranks([Job(_config(folder))], 2)
    return folder


@pytest.mark.slow
def test_metrics_log_has_figures_realness_and_performance(run: Path) -> None:
    lines = metrics(run)
    assert list(lines) == list(range(8, 81, 8))
    assert all(line.keys() == {"images", "seconds", "figures", "realness", "performance"} for line in lines.values())
    evaluated = {images for images, line in lines.items() if "brightness" in line["figures"]}
    assert evaluated == {40, 80}
    assert all(line["figures"].keys() >= {"D loss", "G loss"} for line in lines.values())
    assert all(line["realness"].keys() == {"D"} and len(line["realness"]["D"]) == 2 for line in lines.values())
    names = {"images/s", "data wait", "hooks", "memory GiB"}
    assert all(line["performance"].keys() == names for line in lines.values())
    assert all(0 <= line["performance"]["data wait"] <= 1 for line in lines.values())
    assert all(0.05 < line["performance"]["memory GiB"] < 100 for line in lines.values())


@pytest.mark.slow
def test_tensorboard_gets_the_same_figures_and_the_samples(run: Path) -> None:
    (file,) = (run / "tensorboard").iterdir()
    content = file.read_bytes()
    for tag in (b"G_loss", b"D_real_", b"images/s", b"samples", b"\x89PNG"):
        assert tag in content


@pytest.mark.slow
def test_performance_reports_the_speed_of_the_whole_run(run: Path) -> None:
    (report,) = [event for event in events(run) if event.startswith("speed: ")]
    assert " images/s with 2 workers; data wait " in report
    assert report.endswith("% of the time")


@pytest.mark.slow
def test_evaluation_scores_the_same_images_on_one_rank_and_on_two(run: Path, tmp_path: Path) -> None:
    fit_ranks([Job(_config(tmp_path))], 1)
    one, two = (metrics(folder)[80]["figures"] for folder in (tmp_path, run))
    assert one["values"] == two["values"] == 10 * 16 * 16
    assert one["brightness"] == pytest.approx(two["brightness"], rel=1e-3)


def test_hooks_are_called_in_the_order_of_their_stages() -> None:
    from trainer.loop import HOOKS

    assert {hook.stage for hook in HOOKS} == set(Stage)
    assert [stage.name for stage in sorted(Stage)] == ["MEASURE", "RECORD", "SAVE", "JUDGE"]
