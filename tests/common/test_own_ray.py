"""The folder, the environment and the token of a Ray that a command starts for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zorse_common.own_ray import environment, ray_folder

ENTER = "from zorse_common.own_ray import environment\nwith environment({}): pass"


def test_the_environment_is_as_before_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KEPT", "old")
    monkeypatch.delenv("ADDED", raising=False)
    before = dict(os.environ)
    with environment({"KEPT": "new", "ADDED": "new"}):
        assert (os.environ["KEPT"], os.environ["ADDED"], os.environ["RAY_USAGE_STATS_ENABLED"]) == ("new", "new", "0")
    assert dict(os.environ) == before


def test_the_folder_names_its_process_and_goes_with_the_block() -> None:
    with ray_folder() as folder:
        (Path(folder) / "file").touch()
        assert Path(folder).name.startswith(f"zorse-{os.getpid()}-")
    assert not Path(folder).exists()


def test_commands_that_start_at_once_have_one_token(tmp_path: Path) -> None:
    variables = os.environ | {"HOME": str(tmp_path)}
    commands = [subprocess.Popen([sys.executable, "-c", ENTER], env=variables) for _ in range(8)]
    assert [command.wait() for command in commands] == [0] * 8
    (token,) = (tmp_path / ".ray").iterdir()
    assert (token.name, len(token.read_text()), token.stat().st_mode & 0o777) == ("auth_token", 64, 0o600)


def test_a_token_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    with environment({}):
        assert (tmp_path / ".ray" / "auth_token").read_text() == "mine"


def test_no_token_is_written_where_the_environment_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with environment({}):
        assert list(tmp_path.iterdir()) == []


def test_a_home_that_cannot_be_written_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    with environment({"ADDED": "1"}):
        assert os.environ["ADDED"] == "1"
