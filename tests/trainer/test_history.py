"""Reading a run's folder, complete or not, and the commands that show runs."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from tests.browser.runs import CONFIG, write_lines, write_run
from trainer.curves import bin_means, thin
from trainer.history import Event, RunHistory, find_run, find_runs
from trainer.run_config import RunConfig
from trainer.run_summary import differing_keys, format_duration, non_default_keys, side_by_side
from zorse.cli import app
from zorse_common.errors import StorageError
from zorse_common.storage import Storage


def _read(folder: Path) -> RunHistory:
    return RunHistory(Storage(folder))


def _shown(*words: str | Path) -> str:
    result = CliRunner(env={"COLUMNS": "160"}).invoke(app, ["runs", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_history_reads_all_files_of_a_run(tmp_path: Path) -> None:
    run = _read(write_run(tmp_path / "toy", lines=4, grids=3))
    assert (run.name, run.state, run.reason, run.task) == ("toy", "finished", None, "gan")
    assert (run.images_seen, run.total_images, run.images_per_second) == (1000, 1000, 100.0)
    assert run.time == datetime(2026, 1, 2, 4, 5, 6, tzinfo=UTC)
    assert run.environment == {"python": "3.11.7", "torch": "2.13.0"}
    started = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert run.events == [Event(started, 8, "training from image 0 on with 2 workers")]
    assert run.curves["G loss"] == [(250, 0.7), (500, 0.95), (750, 1.2), (1000, 1.45)]
    assert run.realness_curves["D(real)"][-1] == (1000, 0.75)
    assert run.performance_curves["data wait"][0] == (250, 0.05)
    assert list(run.figures) == ["D loss", "G loss", "D(real)", "D(fake)"]
    assert run.samples == [0, 500, 1000]
    assert run.sample(500) == (tmp_path / "toy" / "samples" / "0000000500.png").read_bytes()


def test_state_of_a_run_with_a_silent_driver_is_lost(tmp_path: Path) -> None:
    assert _read(write_run(tmp_path / "old", state="running")).state == "lost"
    assert _read(write_run(tmp_path / "new", state="running", time=datetime.now(UTC).isoformat())).state == "running"


def test_images_seen_follow_the_figures_of_a_running_run(tmp_path: Path) -> None:
    assert _read(write_run(tmp_path / "toy", state="running", images_seen=0)).images_seen == 1000


def test_history_ignores_a_torn_last_line(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy", lines=2)
    for name in ("metrics/000000000000.jsonl", "events.jsonl"):
        with (folder / name).open("a") as file:
            file.write('{"images": 1008, "event": "tor')
    run = _read(folder)
    assert [images for images, _ in run.curves["D loss"]] == [500, 1000]
    assert run.images_logged == 1000
    assert len(run.events) == 1


def test_history_keeps_figures_that_are_not_finite(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy")
    write_lines(folder, [{"images": 8, "seconds": 1, "figures": {"G loss": math.nan, "D loss": -math.inf}}])
    run = _read(folder)
    assert math.isnan(run.figures["G loss"])
    assert run.curves["D loss"] == [(8, -math.inf)]


def test_history_of_an_empty_folder_is_empty(tmp_path: Path) -> None:
    run = _read(tmp_path)
    assert (run.state, run.reason, run.time, run.task, run.total_images) == ("unknown", None, None, None, None)
    assert (run.images_seen, run.images_per_second, run.figures, run.curves) == (0, None, {}, {})
    assert (run.events, run.samples, run.config, run.environment) == ([], [], {}, {})


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b'{"time": 3, "environment": 1}'])
def test_history_takes_damaged_files_for_empty_ones(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics").mkdir()
    for name in ("config.yaml", "run.json", "events.jsonl", "metrics/000000000000.jsonl"):
        (tmp_path / name).write_bytes(content)
    run = _read(tmp_path)
    assert (run.state, run.time, run.task, run.environment, run.events, run.curves) == (
        "unknown",
        None,
        None,
        {},
        [],
        {},
    )


def test_find_runs_returns_the_newest_first(tmp_path: Path) -> None:
    write_run(tmp_path / "old")
    write_run(tmp_path / "new", time="2026-01-03T00:00:00+00:00")
    write_run(tmp_path / "timeless", time=None)
    (tmp_path / "other").mkdir()
    assert [run.name for run in find_runs(str(tmp_path))] == ["new", "old", "timeless"]
    assert find_run(str(tmp_path / "old")).name == "old"
    with pytest.raises(StorageError, match=r"other holds no run: it has no config\.yaml"):
        find_run(str(tmp_path / "other"))
    with pytest.raises(StorageError, match="other holds no runs"):
        find_runs(str(tmp_path / "other"))


def test_thin_keeps_extremes_ends_and_numbers_that_are_not_finite() -> None:
    points = [(float(x), math.sin(x / 5000)) for x in range(200_000)]
    points[123_456] = (123_456.0, 50.0)
    points[123_457] = (123_457.0, -50.0)
    points[77_777] = (77_777.0, math.nan)
    kept = thin(points)
    assert len(kept) <= 1100
    assert {points[0], points[-1], points[123_456], points[123_457]} <= set(kept)
    assert [x for x, y in kept if math.isnan(y)] == [77_777]
    assert [x for x, _ in kept] == sorted(x for x, _ in kept)
    assert thin(points[:1000]) == points[:1000]


def test_bin_means_leave_out_numbers_that_are_not_finite() -> None:
    points = [(1.0, 1.0), (2.0, 3.0), (3.0, math.inf), (4.0, 8.0), (5.0, math.nan), (6.0, math.nan)]
    averages = bin_means(points, 3)
    assert averages[:2] == [(1.5, 2.0), (3.5, 8.0)]
    assert averages[2][0] == 5.5
    assert math.isnan(averages[2][1])
    assert bin_means(points[:2], 60) == points[:2]


def test_differing_keys_of_configs(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    other = CONFIG | {
        "batch": {"global_size": 16},
        "run": CONFIG["run"] | {"dir": "b", "storage": "s3://a"},
        "ema": None,
    }
    (two / "config.yaml").write_text(yaml.safe_dump(RunConfig.model_validate(other).model_dump(mode="json")))
    assert differing_keys([_read(one), _read(two), _read(one)]) == {
        "batch.global_size": [8, 16, 8],
        "ema.half_life_images": [100.0, None, 100.0],
    }


def test_side_by_side_figures(tmp_path: Path) -> None:
    one = _read(write_run(tmp_path / "one", lines=4))
    two = write_run(tmp_path / "two", lines=1, state="failed", images_seen=80)
    write_lines(two, [{"images": 80, "seconds": 0, "figures": {"G loss": math.nan, "cycle": 2}}])
    columns = side_by_side([one, _read(two)])
    assert columns["state"] == ["finished", "failed"]
    assert columns["images seen"] == ["1,000", "80"]
    assert columns["images/s"] == ["100", ""]
    assert (columns["G loss"], columns["cycle"], columns["D loss"]) == (["1.45", "nan"], ["", "2"], ["0.65", ""])


def test_non_default_keys_of_a_config() -> None:
    resolved = RunConfig.model_validate(CONFIG).model_dump(mode="json")
    assert non_default_keys(resolved) == [
        ("run.dir", "toy", ""),
        ("run.total_images", "1000", ""),
        ("run.workers", "2", "1"),
        ("batch.global_size", "8", ""),
        ("data.type", "digits", ""),
        ("data.size", "16", "32"),
        ("task.type", "gan", ""),
        ("task.generator.type", "dcgan_generator", ""),
        ("task.generator.latent_dim", "8", "100"),
        ("task.generator.channels", "1", "3"),
        ("task.generator.size", "16", "64"),
        ("task.generator.width", "4", "64"),
        ("task.discriminator.type", "dcgan_discriminator", ""),
        ("task.discriminator.channels", "1", "3"),
        ("task.discriminator.size", "16", "64"),
        ("task.discriminator.width", "4", "64"),
        ("ema.half_life_images", "100.0", "null"),
    ]


def test_non_default_keys_of_another_versions_config_are_all_keys() -> None:
    assert non_default_keys({"run": {"dir": "toy", "gone": True}}) == [("run.dir", "toy", ""), ("run.gone", "true", "")]


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (86400 * 3 + 5, "3 d")]
)
def test_format_duration_uses_the_largest_unit(seconds: float, words: str) -> None:
    assert format_duration(timedelta(seconds=seconds)) == words


def test_runs_list_has_a_row_for_each_run(tmp_path: Path) -> None:
    write_run(tmp_path / "one[red]")
    write_run(tmp_path / "two", state="running", time=None, images_seen=0)
    head, one, two = (row.rstrip() for row in _shown("list", tmp_path).splitlines() if row.strip())
    assert head.split("  ")[0] == "run"
    assert "one[red]" in one
    assert "finished" in one
    assert "1,000 of 1,000" in one
    assert "G loss 1.68" in one
    assert one.endswith(" d")
    assert two.split()[:3] == ["two", "running", "gan"]


def test_runs_show_prints_a_run_and_writes_its_report(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy", state="failed", reason="a worker was lost")
    before = _shown("show", folder)
    for words in ("a worker was lost", "G loss", "training from image 0 on with 2 workers", "2026-01-02 03:04:05"):
        assert words in before
    assert "task.generator.latent_dim" in before
    assert "none yet: --report writes it" in before
    assert str(folder / "report.html") in _shown("show", folder, "--report").replace("\n", "")
    assert (folder / "report.html").is_file()


def test_runs_compare_prints_differing_keys_and_figures(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "1"), write_run(tmp_path / "2", state="preempted")
    config = yaml.safe_load((two / "config.yaml").read_text())
    (two / "config.yaml").write_text(json.dumps(config | {"precision": "bf16"}))
    output = [row.split() for row in _shown("compare", one, two).splitlines()]
    assert ["precision", "auto", "bf16"] in output
    assert ["state", "finished", "preempted"] in output
    assert ["images/s", "100", "100"] in output


def test_runs_compare_refuses_a_single_run(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["runs", "compare", str(write_run(tmp_path / "toy"))])
    assert result.exit_code == 2
    assert "name two runs or more" in result.output
