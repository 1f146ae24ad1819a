"""The deployment examples are what KubeRay and Ray take, and the commands in them and in pages on clusters resolve."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from pydantic import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.serve.schema import ServeDeploySchema
from typer.testing import CliRunner

from serving.cli import register
from serving.config import DRAIN_SECONDS, GatewaySettings, ModelSettings
from tests.contracts.kuberay import KINDS, RayJob, RayService
from tests.serving.tiny import generator_graph, generator_manifest, write
from trainer.config_files import find_config, load_config

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def page(name: str) -> str:
    """Return a page of the documentation with its commands in one line each."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8").replace("\\\n", " ")


def manifest(name: str, *, with_options: bool = False) -> RayJob | RayService:
    """Return a checked manifest of `deploy`, as it is or with everything that stands behind `#:`."""
    text = (DEPLOY / name).read_text(encoding="utf-8")
    content = yaml.safe_load(text.replace("#: ", "") if with_options else text)
    return KINDS[content["kind"]].model_validate(content)


NAMES = [file.name for file in sorted(DEPLOY.glob("ray*.yaml"))]
TRAINING, BATCH, SERVICE = (manifest(name) for name in ("rayjob.yaml", "rayjob-batch.yaml", "rayservice.yaml"))
assert isinstance(TRAINING, RayJob)
assert isinstance(BATCH, RayJob)
assert isinstance(SERVICE, RayService)
COMMANDS = [TRAINING.spec.entrypoint, *re.findall(r"zorse train configs\S+ .*", page("train-on-a-cluster.md"))]


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_train_command_resolves(command: str) -> None:
    _, _, config, *words = shlex.split(command)
    overrides = [word for word in words if "=" in word]
    resolved = load_config(find_config(config), overrides).model_dump(mode="json")
    assert resolved["run"]["workers"]


def test_documented_batch_commands_are_parsed() -> None:
    commands = [BATCH.spec.entrypoint]
    for name in ("batch.md", "batch-cluster.md"):
        commands += re.findall(r"zorse (?:generate|translate) +\S+ +\S+.*", page(name).replace("`", "\n"))
    assert len(commands) == 8
    app = typer.Typer()
    register(app)
    for command in commands:
        _, verb, *words = shlex.split(command, comments=True)
        (known,) = (one for name, one in typer.main.get_command(app).commands.items() if name == verb)
        parameters = known.make_context(verb, words).params
        assert parameters["output"], command


@pytest.mark.parametrize("with_options", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_manifest_is_one_of_kuberay_and_of_the_pinned_ray(name: str, with_options: bool) -> None:
    cluster = manifest(name, with_options=with_options).spec.cluster
    (pinned,) = re.findall(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert cluster.ray_version == pinned
    assert cluster.auth_options.mode == "token"
    # Without CPUs no replica and no worker runs beside the cluster's control service.
    assert cluster.head_group_spec.ray_start_params == {"num-cpus": "0"}
    head, *workers = (group.container for group in cluster.groups)
    assert [(one.env, one.env_from, one.image) for one in workers] == [(head.env, head.env_from, head.image)]


@pytest.mark.parametrize("name", ["rayjob.yaml", "rayjob-batch.yaml"])
def test_job_leaves_failed_pods_to_kuberay(name: str) -> None:
    assert {group.template.spec.restart_policy for group in manifest(name).spec.cluster.groups} == {"Never"}


def test_deployment_examples_leave_time_for_a_checkpoint() -> None:
    head = TRAINING.spec.cluster.head_group_spec.container
    (wait,) = (one.value for one in head.env if one.name == "RAY_JOB_STOP_WAIT_TIME_S")
    assert wait == "120"
    assert TRAINING.spec.cluster.head_group_spec.template.spec.termination_grace_period_seconds > int(wait)
    assert TRAINING.spec.backoff_limit > 0
    start = yaml.safe_load((DEPLOY / "cluster.yaml").read_text(encoding="utf-8"))["head_start_ray_commands"]
    assert any("RAY_JOB_STOP_WAIT_TIME_S=120" in command for command in start)


def test_cluster_launcher_takes_the_cluster() -> None:
    config = yaml.safe_load((DEPLOY / "cluster.yaml").read_text(encoding="utf-8"))
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError, match="'max_worker' was unexpected"):
        validate_config(prepare_config({**config, "max_worker": 8}))


def test_service_is_what_the_command_in_it_prints(tmp_path: Path) -> None:
    write(tmp_path, generator_graph(), generator_manifest())
    first_lines = (DEPLOY / "rayservice.yaml").read_text(encoding="utf-8").partition("apiVersion")[0]
    (command,) = re.findall(r"zorse (serve config .*) \|", first_lines)
    app = typer.Typer()
    register(app)
    printed = CliRunner().invoke(app, shlex.split(command.replace("s3://bucket/repository", str(tmp_path))))
    assert printed.exit_code == 0, printed.output
    content = printed.stdout.replace(str(tmp_path), "s3://bucket/repository")
    (digest,) = re.findall(r"digest: (\w{64})", content)
    expected, stated = (
        yaml.safe_load(content.replace(digest, f'"{0:064}"')),
        yaml.safe_load(SERVICE.spec.serve_config_v2),
    )
    assert _settings(stated) == _settings(expected)


def _settings(config: dict[str, Any]) -> list[Any]:
    """Return a configuration of Ray Serve, with the arguments of its applications as settings."""
    schema = ServeDeploySchema.model_validate(config)
    gateway, *models = (application.args for application in schema.applications)
    settings = [GatewaySettings.model_validate(gateway), *map(ModelSettings.model_validate, models)]
    return [
        schema.model_copy(update={"applications": []}),
        [(one.name, one.import_path, one.route_prefix) for one in schema.applications],
        settings,
    ]


def test_service_has_what_its_processes_need() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(SERVICE.spec.serve_config_v2))
    head, workers = SERVICE.spec.cluster.groups
    assert [(port.name, port.container_port) for port in head.container.ports] == [("serve", config.http_options.port)]
    sources = [application.args["access"]["keys_from"]["variable"] for application in config.applications]
    assert set(sources) <= {variable.name for variable in workers.container.env}
    # Kubernetes kills a pod after this time.
    assert workers.template.spec.termination_grace_period_seconds > DRAIN_SECONDS
    room = workers.max_replicas * int(workers.container.resources.requests["cpu"])
    (model,) = (ModelSettings.model_validate(one.args) for one in config.applications[1:])
    assert model.replicas.max * model.cpus + 1 <= room


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("minReplicas: 1", "minReplica: 1"), "minReplica\n  Extra inputs are not permitted"),
        (("minReplicas: 1", "minReplicas: 3"), "replicas is not between its bounds"),
        (
            ("limits:\n                    memory: 16Gi", "limits:\n                    memory: 8Gi"),
            "limits and requests",
        ),
        (('cpu: "8"', "cpu: 8"), "should be a valid string"),
        (("memory: 16Gi", "memory: 16GB"), "should match pattern"),
        (("containerPort: 8000", 'containerPort: "8000"'), "should be a valid integer"),
        (("value: us-east-1", "valueFrom: us-east-1"), "valueFrom"),
        (("mode: token", "mode: key"), "'disabled' or 'token'"),
    ],
)
def test_manifest_with_a_mistake_is_refused(change: tuple[str, str], reason: str) -> None:
    text = (DEPLOY / "rayservice.yaml").read_text(encoding="utf-8")
    assert change[0] in text
    with pytest.raises(ValidationError, match=reason):
        RayService.model_validate(yaml.safe_load(text.replace(*change, 1)))
