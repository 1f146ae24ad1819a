"""The command line's errors: one line, the error's exit code, and a stack trace with --debug."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from export.errors import ExportError
from serving.errors import StartError
from trainer.errors import ConfigError, Preempted
from zorse.cli import app, run_guarded


def _failing(error: Exception) -> typer.Typer:
    failing = typer.Typer()

    @failing.command()
    def fail() -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a\n b"), 1),
        (ExportError("a b"), 1),
        (StartError("a b"), 1),
        (OSError("a b"), 1),
        (Preempted("a b"), 75),
    ],
)
def test_run_guarded_prints_one_line_and_exits_with_the_errors_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_guarded(_failing(error), [])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: a b\n")


@pytest.mark.parametrize("words", [["--debug", "train", "digts"], ["train", "digts", "--debug"]])
def test_debug_option_raises_the_error_from_any_place(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="no config digts"):
        run_guarded(app, words)
    with pytest.raises(SystemExit):
        run_guarded(app, [word for word in words if word != "--debug"])


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_replaces_characters_that_the_encoding_lacks(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "größe→" / "run").mkdir(parents=True)
    (tmp_path / "größe→" / "run" / "config.yaml").write_text("run: {dir: größe→, total_images: 1}\n", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "zorse", "runs", "show", str(tmp_path / "größe→" / "run")]
    result = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"?" in result.stdout


def test_command_ends_quietly_if_its_reader_closes_the_pipe() -> None:
    command = f"set -o pipefail; {sys.executable} -m zorse --help | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert result.stderr == b""
    assert result.returncode in (0, 1)  # click's own code for a closed pipe
