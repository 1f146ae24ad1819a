"""The command group `zorse serve`, without a server."""

from __future__ import annotations

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
