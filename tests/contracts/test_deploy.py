"""The deployment examples parse, and the commands in them and in docs/train-on-a-cluster.md resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from serving.cli import register
from trainer.config_files import find_config, load_config

ROOT = Path(__file__).parents[2]
JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "train-on-a-cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = [JOB["spec"]["entrypoint"], *re.findall(r"zorse train configs\S+ .*", PAGE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_train_command_resolves(command: str) -> None:
    _, _, config, *words = shlex.split(command)
    overrides = [word for word in words if "=" in word]
    resolved = load_config(find_config(config), overrides).model_dump(mode="json")
    assert resolved["run"]["workers"]


def test_documented_batch_commands_have_known_options() -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob-batch.yaml").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "batch.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [job["spec"]["entrypoint"], *re.findall(r"zorse (?:generate|translate) \S+ --.*", page)]
    assert len(commands) == 5
    app = typer.Typer()
    register(app)
    for command in commands:
        _, verb, *words = shlex.split(command)
        options = {word for word in words if word.startswith("--")}
        (known,) = (one for name, one in typer.main.get_command(app).commands.items() if name == verb)
        names = {name for parameter in known.params for name in parameter.opts}
        assert options <= names, command


def test_deployment_examples_leave_time_for_a_checkpoint() -> None:
    cluster = JOB["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in head["env"]
    assert JOB["spec"]["backoffLimit"] > 0
    start = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"]
    assert any("RAY_JOB_STOP_WAIT_TIME_S=120" in command for command in start)
