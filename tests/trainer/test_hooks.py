"""The files and events that hooks write: figures, pictures, TensorBoard's file and speed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.fitting import Job, events, fit_ranks, metrics
from trainer.hooks.base import Stage

BATCH, STEPS = 4, 20


def _config(folder: Path) -> dict[str, Any]:
    networks = {
        "generator": {"type": "dcgan_generator", "latent_dim": 8, "channels": 1, "size": 16, "width": 4},
        "discriminator": {"type": "dcgan_discriminator", "channels": 1, "size": 16, "width": 4},
    }
    return {
        "run": {
            "dir": str(folder),
            "total_images": STEPS * BATCH,
            "log_images": 2 * BATCH,
            "sample_images": 40,
            "checkpoint_images": 2 * BATCH,
            "keep_checkpoints": 1,
            "best": {"metric": "brightness", "mode": "max"},
        },
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


@pytest.mark.slow
def test_best_checkpoint_is_chosen_by_the_score_of_its_own_weights(run: Path) -> None:
    """There are checkpoints at every 8 images, but scores only at 40 and 80."""
    scores = {seen: metrics(run)[seen]["figures"]["brightness"] for seen in (40, 80)}
    kept = {int(path.name) for path in (run / "checkpoints").iterdir()}
    assert kept == {80, max(scores, key=lambda seen: scores[seen])}
    for seen in kept:
        info = json.loads((run / "checkpoints" / f"{seen:012d}" / "checkpoint.json").read_text())
        assert info["score"] == pytest.approx(scores[seen])


@pytest.mark.slow
def test_metrics_log_of_a_resumed_run_leaves_out_torn_lines(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (part,) = (folder / "metrics").iterdir()
    with part.open("ab") as file:
        file.write(b'{"images": 84, "fig\n\x00\x00\x00')
    config = _config(folder)
    fit_ranks([Job(config | {"run": config["run"] | {"total_images": 88}})], 1)
    assert list(metrics(folder)) == list(range(8, 89, 8))
    assert b"\x00" not in part.read_bytes()


@pytest.mark.slow
def test_evaluation_tries_its_metric_before_the_first_step(tmp_path: Path) -> None:
    config = _config(tmp_path)
    wrong = config | {"evaluation": config["evaluation"] | {"metric": {"type": "digits_frechet"}}}
    with pytest.raises(Exception, match="digits_frechet needs"):
        fit_ranks([Job(wrong)], 1)
    assert not (tmp_path / "metrics").exists()


def test_hooks_are_called_in_the_order_of_their_stages() -> None:
    from trainer.loop import HOOKS, in_order

    stages = [hook.stage for hook in in_order(reversed(HOOKS))]
    assert stages == sorted(stages)
    assert set(stages) == set(Stage)
    assert [stage.name for stage in sorted(Stage)] == ["MEASURE", "RECORD", "SAVE", "JUDGE"]


def test_sample_columns_get_one_shape() -> None:
    from trainer.hooks.samples import _same_shape

    grey, colour = torch.rand(2, 1, 48, 48), torch.rand(2, 3, 64, 64)
    first, second = _same_shape([grey, colour])
    assert first.shape == second.shape == (2, 3, 64, 64)
    assert torch.equal(second, colour)
    assert torch.equal(first[:, 0], first[:, 2])
