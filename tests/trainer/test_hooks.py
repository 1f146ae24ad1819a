"""What a run leaves for people: figures, pictures, TensorBoard's file and where its time went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.trainer.fitting import Job, events, fit_ranks, metrics

BATCH, STEPS = 4, 20


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 20 steps on two ranks."""
    folder = tmp_path_factory.mktemp("run")
    networks = {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    }
    config = {
        "run": {"dir": str(folder), "total_images": STEPS * BATCH, "log_images": 2 * BATCH, "sample_images": 40},
        "batch": {"global_size": BATCH},
        "data": {"type": "digits", "size": 16},
        "task": {"type": "gan", **networks},
        "watchdog": {"diversity": 0},
    }
    fit_ranks([Job(config)], 2)
    return folder


@pytest.mark.slow
def test_metrics_hold_losses_beliefs_speed_and_memory(run: Path) -> None:
    lines = metrics(run)
    assert list(lines) == list(range(8, 81, 8))
    names = {"images", "seconds", "D loss", "D(real)", "D(fake)", "G loss", "images/s", "data wait", "memory GiB"}
    assert all(line.keys() == names for line in lines.values())
    assert all(0 <= line["data wait"] <= 1 for line in lines.values())
    assert all(0.05 < line["memory GiB"] < 100 for line in lines.values())


@pytest.mark.slow
def test_tensorboard_gets_the_same_figures_and_the_samples(run: Path) -> None:
    (file,) = (run / "tensorboard").iterdir()
    content = file.read_bytes()
    for tag in (b"G_loss", b"D_real_", b"images/s", b"samples", b"\x89PNG"):
        assert tag in content


@pytest.mark.slow
def test_the_scaling_report_says_where_each_ranks_time_went(run: Path) -> None:
    report = json.loads((run / "scaling.json").read_text())
    assert report["workers"] == len(report["ranks"]) == 2
    assert report["images_per_second"] == pytest.approx(BATCH / report["seconds_per_step"])
    for rank in report["ranks"]:
        assert rank.keys() == {"data_wait", "hooks", "communication", "bare_step"}
        assert all(0 <= rank[key] <= 1 for key in ("data_wait", "hooks", "communication"))
        # Gradients and batch norm's statistics are exchanged in each of the profiled steps.
        assert rank["communication"] > 0
        assert rank["bare_step"] > 0
    assert events(run)[-1].startswith("scaling: ")
    assert " images/s with 2 workers; data wait " in events(run)[-1]
