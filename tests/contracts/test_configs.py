"""Shipped configs are parsed, resolved, checked and dry-run."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from trainer.cli import register
from trainer.config_files import differences, find_config, load_config
from trainer.dryrun import dry_run
from trainer.errors import ConfigError
from trainer.tasks.build import check_fit

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_config_builds_and_takes_a_step(path: Path) -> None:
    # check_fit checks the shapes of the config as shipped. The step itself runs with a small batch and few filters.
    shipped = load_config(path)
    check_fit(shipped)
    small = load_config(path, ["batch.global_size=2", "task.generator.width=4", "task.discriminator.width=4"])
    report = dry_run(small)
    assert report.state_bytes > 0
    assert report.activation_bytes > 0
    assert all(math.isfinite(value) for value in report.losses.values())
    assert {network.name for network in report.networks} in ({"G", "D"}, {"G_AB", "G_BA", "D_A", "D_B"})


def test_shipped_config_is_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_config("digits") == find_config("configs/train/digits.yaml")


def test_dry_run_prints_json() -> None:
    app = typer.Typer()
    register(app)
    command = ["train", "digits", "--dry-run", "--json"]
    report = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert [network["name"] for network in report["networks"]] == ["G", "D"]
    assert report["image_shapes"] == {"image": [16, 1, 32, 32]}
    refused = CliRunner().invoke(app, ["train", "digits", "--json"])
    assert refused.exit_code == 2
    assert "--json needs --dry-run" in refused.output


def test_metric_override_that_is_not_yaml_is_one_clear_error() -> None:
    app = typer.Typer()
    register(app)
    error = CliRunner().invoke(app, ["evaluate", "images", "paired_l1", "root=[1"]).exception
    assert isinstance(error, ConfigError)
    assert str(error) == "override 'root=[1' cannot be read: its value is not YAML"


def test_differences_handle_keys_of_several_types() -> None:
    assert differences({1: 2, "stage": 0}, {"stage": 1}) == ["1: 2 (default)", "stage: 1 -> 0"]
