"""The command group `zorse serve`, without a server."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from click.testing import Result
from typer.testing import CliRunner

from serving.cli import register
from serving.cli_serve import milliseconds
from serving.config import ApiKey
from serving.errors import ArtifactError, ServerError
from tests.serving.live import live_server


def invoke(*arguments: object) -> Result:
    app = typer.Typer()
    register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def test_serve_serves_the_repository_that_is_its_first_argument(tmp_path: Path) -> None:
    for arguments in ((tmp_path,), ("--port", 9, tmp_path), (tmp_path, "--port", 9)):
        result = invoke("serve", *arguments)
        assert isinstance(result.exception, ArtifactError)
        assert result.output == f"starting the models of {tmp_path} …\n"


def test_serve_takes_a_folder_that_is_called_like_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("key", "status", "serve"):
        assert f"starting the models of ./{name} …" in invoke("serve", f"./{name}").output


def test_serve_help_shows_options_and_commands() -> None:
    text = invoke("serve", "--help").output
    for word in ("--host", "--keys", "--cors", "--access-log", "repository", "status", "key", "./status"):
        assert word in text
    assert "Missing argument" in invoke("serve").output
    assert "'x' is no origin" in invoke("serve", "--cors", "x", "folder").output
    assert "'4:1' is no number of replicas" in invoke("serve", "--replicas", "4:1", "folder").output


def test_serve_key_prints_a_key_once_and_its_line_for_the_file() -> None:
    result = invoke("serve", "key", "bob", "--rate", "5/m")
    secret = result.stderr.splitlines()[0].removeprefix("key of bob, shown once: ")
    assert yaml.safe_load(result.stdout) == {"bob": {"sha256": ApiKey.digest(secret.encode()), "rate": "5/m"}}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0012345, "1.23 ms"), (0.0999, "99.9 ms"), (0.9997, "1000 ms"), (1.0312, "1031 ms")],
)
def test_milliseconds_have_no_exponent(seconds: float | None, text: str) -> None:
    assert milliseconds(seconds) == text


def test_serve_status_of_no_server_is_one_line() -> None:
    result = invoke("serve", "status", "--url", "http://127.0.0.1:9")
    assert isinstance(result.exception, ServerError)
    assert "http://127.0.0.1:9 does not answer" in str(result.exception)


@pytest.mark.ray
def test_serve_status_shows_every_model_and_what_is_not_served(tmp_path: Path) -> None:
    with live_server(folder=tmp_path, unavailable={"faces/3": "the graph does not load"}) as url:
        shown = invoke("serve", "status", "--url", url)
        found = json.loads(invoke("serve", "status", "--url", url, "--json").stdout)
    titles, digits, invert, _, node = (line.split() for line in shown.stdout.splitlines() if line)
    assert titles[:4] == ["model", "version", "kind", "replicas"]
    assert (digits[:4], invert[:4]) == (["digits", "1", "generator", "1"], ["invert", "1", "translator", "1"])
    assert node[:2] == [platform.node(), "2"]
    assert (shown.stderr, shown.exit_code) == ("faces/3 cannot answer: the graph does not load\n", 1)
    assert (found["unavailable"], found["loading"]) == ({"faces/3": "the graph does not load"}, [])
    assert [model["name"] for model in found["models"]] == ["digits", "invert"]


@pytest.mark.ray
def test_serve_status_is_shown_again_until_ctrl_c(tmp_path: Path) -> None:
    with live_server(folder=tmp_path) as url:
        command = [sys.executable, "-m", "zorse", "serve", "status", "--watch", "--url", url]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
            assert process.stdout is not None
            titles = (line for line in process.stdout if line.startswith("model"))
            assert next(titles) == next(titles)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
