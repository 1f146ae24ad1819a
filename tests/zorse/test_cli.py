"""The command line's errors: one line, the error's own exit code, and a stack trace on demand."""

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
from zorse.cli import app, guarded


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
def test_an_error_is_one_line_with_its_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        guarded(_failing(error), [])
    assert caught.value.code == code
    assert capsys.readouterr() == ("", "error: a b\n")


@pytest.mark.parametrize("words", [["--debug", "train", "digts"], ["train", "digts", "--debug"]])
def test_debug_shows_the_stack_trace_wherever_it_stands(words: list[str]) -> None:
    with pytest.raises(ConfigError, match="no config digts"):
        guarded(app, words)
    with pytest.raises(SystemExit):
        guarded(app, [word for word in words if word != "--debug"])


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_output_replaces_what_the_terminal_does_not_have(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "größe→" / "run").mkdir(parents=True)
    (tmp_path / "größe→" / "run" / "config.yaml").write_text("run: {dir: größe→, total_images: 1}\n", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "zorse", "runs", "show", str(tmp_path / "größe→" / "run")]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"?" in done.stdout


def test_a_reader_that_has_gone_ends_the_command_quietly() -> None:
    command = f"set -o pipefail; {sys.executable} -m zorse --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == b""
    assert done.returncode in (0, 1)  # click's own code for a closed pipe
