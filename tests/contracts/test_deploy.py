"""The deployment examples are what KubeRay takes, and the commands in them and in the pages on clusters resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from serving.cli import register
from trainer.config_files import find_config, load_config

ROOT = Path(__file__).parents[2]
JOB = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))
BATCH_JOB = yaml.safe_load((ROOT / "deploy" / "rayjob-batch.yaml").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs" / "train-on-a-cluster.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = [JOB["spec"]["entrypoint"], *re.findall(r"zorse train configs\S+ .*", PAGE)]


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_train_command_resolves(command: str) -> None:
    _, _, config, *words = shlex.split(command)
    overrides = [word for word in words if "=" in word]
    resolved = load_config(find_config(config), overrides).model_dump(mode="json")
    assert resolved["run"]["workers"]


def test_documented_batch_commands_are_parsed() -> None:
    commands = [BATCH_JOB["spec"]["entrypoint"]]
    for name in ("batch.md", "batch-cluster.md"):
        page = (ROOT / "docs" / name).read_text(encoding="utf-8").replace("\\\n", " ")
        commands += re.findall(r"zorse (?:generate|translate) +\S+ +\S+.*", page.replace("`", "\n"))
    assert len(commands) == 8
    app = typer.Typer()
    register(app)
    for command in commands:
        _, verb, *words = shlex.split(command, comments=True)
        (known,) = (one for name, one in typer.main.get_command(app).commands.items() if name == verb)
        parameters = known.make_context(verb, words).params
        assert parameters["output"], command


@pytest.mark.parametrize("job", [JOB, BATCH_JOB], ids=["train", "batch"])
def test_ray_jobs_have_fields_that_kuberay_knows(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]
    cluster = spec["rayClusterSpec"]
    assert spec.keys() <= {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "rayClusterSpec"}
    assert cluster.keys() <= {
        "rayVersion",
        "enableInTreeAutoscaling",
        "authOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"].keys() <= {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        assert pod.keys() <= {"restartPolicy", "terminationGracePeriodSeconds", "containers"}
        assert pod["restartPolicy"] == "Never"
        (container,) = pod["containers"]
        assert container.keys() == {"name", "image", "env", "envFrom", "resources"}
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_ray_jobs_are_of_the_version_of_ray_that_is_pinned() -> None:
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert [job["spec"]["rayClusterSpec"]["rayVersion"] for job in (JOB, BATCH_JOB)] == [pinned] * 2


def test_deployment_examples_leave_time_for_a_checkpoint() -> None:
    cluster = JOB["spec"]["rayClusterSpec"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in head["env"]
    assert JOB["spec"]["backoffLimit"] > 0
    start = yaml.safe_load((ROOT / "deploy" / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"]
    assert any("RAY_JOB_STOP_WAIT_TIME_S=120" in command for command in start)
