"""The configuration of `zorse serve config`, held against Ray Serve's own schema, and the builders that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from click.testing import Result
from ray._common.utils import import_attr
from ray.serve._private.api import call_user_app_builder_with_args_if_necessary
from ray.serve._private.build_app import build_app
from ray.serve.deployment import Deployment
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema
from typer.testing import CliRunner

from serving import artifacts
from serving.cli import register
from serving.config import DRAIN_SECONDS
from serving.errors import ArtifactError, ServingError, StartError
from serving.keys import new_key

SECRET = "a-key-that-nobody-may-see"


def invoke(*arguments: object, **environment: str) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["serve", "config", *map(str, arguments)], env=environment)


def printed(*arguments: object, **environment: str) -> dict[str, Any]:
    result = invoke(*arguments, **environment)
    assert result.exit_code == 0, result.output
    config: dict[str, Any] = yaml.safe_load(result.stdout)
    return config


def built(application: dict[str, Any]) -> Deployment:
    """Return the deployment that Ray Serve makes of an application of the configuration."""
    schema = ServeApplicationSchema.model_validate(application)
    app = call_user_app_builder_with_args_if_necessary(import_attr(schema.import_path), schema.args)
    (deployment,) = build_app(app, name=schema.name).deployments
    return deployment


def test_config_is_one_of_ray_serve_and_pins_the_versions(repository: Path) -> None:
    config = printed(repository, "--device", "cpu", "--host", "0.0.0.0", "--port", 80)
    schema = ServeDeploySchema.model_validate(config)
    assert schema.model_dump(exclude_unset=True, mode="json").keys() == config.keys()
    assert (schema.proxy_location, schema.http_options.host, schema.http_options.port) == ("EveryNode", "0.0.0.0", 80)
    routes = {application.name: application.route_prefix for application in schema.applications}
    assert routes == {
        "zorse": "/",
        "zorse.digits": "/v2/models/digits",
        "zorse.invert": "/v2/models/invert",
    }
    pinned = {model["args"]["artifact"]: model["args"]["digest"] for model in config["applications"][1:]}
    assert pinned == {version.uri: version.digest for version in artifacts.find(repository).models.values()}
    assert [(model["name"], model["version"]) for model in config["applications"][0]["args"]["models"]] == [
        ("digits", 1),
        ("invert", 1),
    ]


def test_config_builds_applications_that_are_updated_beside_the_old_ones(repository: Path) -> None:
    options = ("--device", "cuda", "--replicas", 3, "--cpus", 2, "--gpus", 0.5, "--max-batch", 4, "--max-body", 99)
    config = printed(repository, *options, "--cors", "*", "--access-log")
    gateway, digits, _ = map(built, config["applications"])
    assert (gateway.name, digits.name) == ("gateway", "model")
    options_of_digits = digits._deployment_config
    assert (options_of_digits.num_replicas, options_of_digits.max_surge_percent) == (3, 100)
    assert options_of_digits.graceful_shutdown_timeout_s == DRAIN_SECONDS
    assert digits._replica_config.ray_actor_options == {"num_cpus": 2, "num_gpus": 0.5}
    assert gateway._replica_config.ray_actor_options == {"num_cpus": 0.1}
    (settings,) = digits._replica_config.init_args
    assert (settings.batching.max_size, settings.limits.bytes, settings.gpu_fraction) == (4, 99, 0.5)
    assert settings.access.cors == "*"
    assert settings.access_log
    assert settings.folder is None
    assert gateway._replica_config.init_args[0].access == settings.access


def test_config_names_where_keys_are_and_holds_none(repository: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    key, line = new_key("bob")
    file.write_text(line, encoding="utf-8")
    sources = {
        (): {"variable": "ZORSE_API_KEY"},
        ("--keys", file): {"file": str(file)},
        ("--keys", "/on/the/nodes"): {"file": "/on/the/nodes"},
    }
    for options, source in sources.items():
        result = invoke(repository, "--device", "cpu", *options, ZORSE_API_KEY=SECRET)
        applications = yaml.safe_load(result.stdout)["applications"]
        assert [one["args"]["access"]["keys_from"] for one in applications] == [source] * 3
        for secret in (SECRET, key, "sha256", yaml.safe_load(line)["bob"]["sha256"]):
            assert secret not in result.output
    applications = printed(repository, "--device", "cpu", "--insecure", "--host", "0.0.0.0")["applications"]
    assert all("access" not in one["args"] for one in applications)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ([], "say --device cpu or --device cuda"),
        (["--device", "cpu", "--follow"], "leave out --follow"),
        (["--device", "cpu", "--grpc-port", 9], "leave out --grpc-port"),
        (["--device", "cpu", "--proxy", "ray"], "leave out --proxy"),
        (["--device", "cpu", "--address", "auto"], "leave out --address"),
    ],
)
def test_config_refuses_what_a_cluster_cannot_have(repository: Path, options: list[object], reason: str) -> None:
    error = invoke(repository, *options).exception
    assert isinstance(error, StartError)
    assert reason in str(error)


def test_config_leaves_out_and_names_a_broken_artifact(repository: Path, tmp_path: Path) -> None:
    assert isinstance(invoke(tmp_path, "--device", "cpu").exception, ArtifactError)
    for model in ("digits", "invert"):
        (tmp_path / model).symlink_to(repository / model)
    (tmp_path / "faces" / "1").mkdir(parents=True)
    (tmp_path / "faces" / "1" / "manifest.json").write_text("{", encoding="utf-8")
    gateway, *models = printed(tmp_path, "--device", "cpu")["applications"]
    assert [model["args"]["name"] for model in models] == ["digits", "invert"]
    assert list(gateway["args"]["unavailable"]) == ["faces/1"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"replicas": {"max": 0}}, "replicas.max: Input should be greater than 0"),
        ({"replica": 2}, "replica: Extra inputs are not permitted"),
        ({"artifact": None}, "artifact: Input should be a valid string"),
        ({"access": {"keys_from": {}}}, "access.keys_from: Value error, give either a file or a variable"),
        ({"access": {"keys": [SECRET]}}, "access.keys.0: Input should be a valid dictionary or instance of ApiKey"),
    ],
)
def test_builder_refuses_an_argument_in_one_line_without_its_value(
    repository: Path, change: dict[str, Any], reason: str
) -> None:
    _, digits, _ = printed(repository, "--device", "cpu")["applications"]
    digits["args"] |= change
    with pytest.raises(ServingError) as caught:
        built(digits)
    assert str(caught.value) == f"the argument {reason}"
