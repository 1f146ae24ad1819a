"""`zorse serve --address` and `zorse serve stop`, without a cluster."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from serving.cli import register
from serving.cluster_server import _reachable
from serving.errors import StartError

NOWHERE = "127.0.0.1:9"


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, ["serve", *map(str, arguments)])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--detach"], "--detach is for a cluster that runs already: give its --address too"),
        (["--cpus", 2], "--cpus is for a cluster that runs already: give its --address too"),
        (["--gpus", 0.5], "--gpus is for a cluster that runs already: give its --address too"),
        (["--address", NOWHERE, "--detach", "--follow"], "nobody follows the repository after --detach"),
        (["--address", NOWHERE, "--grpc-port", 9], "leave out --grpc-port"),
        (["--address", NOWHERE, "--proxy", "haproxy"], "leave out --proxy"),
        (["--address", NOWHERE], f"no Ray cluster answers at {NOWHERE} (nothing listens there): check --address"),
    ],
)
def test_serve_refuses_options_that_do_not_fit_together(repository: Path, options: list[object], reason: str) -> None:
    error = invoke(repository, *options).exception
    assert isinstance(error, StartError)
    assert reason in str(error)


def test_stop_without_a_cluster_is_a_clear_error() -> None:
    error = invoke("stop", "--address", NOWHERE).exception
    assert isinstance(error, StartError)
    assert str(error).startswith(f"no Ray cluster answers at {NOWHERE} (nothing listens there)")


@pytest.mark.parametrize(
    ("host", "address", "reachable"),
    [
        ("127.0.0.1", "auto", "127.0.0.1"),
        ("::1", "auto", "[::1]"),
        ("10.0.0.7", "head:6379", "10.0.0.7"),
        ("0.0.0.0", "auto", "127.0.0.1"),
        ("0.0.0.0", "head:6379", "head"),
        ("::", "[fd00::1]:6379", "[fd00::1]"),
    ],
)
def test_url_names_a_host_that_this_machine_reaches(host: str, address: str, reachable: str) -> None:
    assert _reachable(host, address) == reachable
