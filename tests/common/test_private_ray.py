"""The folder, environment variables and token of a Ray that a command starts for itself."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from ray._common.utils import try_to_create_directory

from zorse_common.private_ray import ray_environment, ray_files, ray_folder

ENTER_ENVIRONMENT = "from zorse_common.private_ray import ray_environment\nwith ray_environment({}): pass"


def test_ray_environment_is_restored_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KEPT", "old")
    monkeypatch.delenv("ADDED", raising=False)
    before = dict(os.environ)
    with ray_environment({"KEPT": "new", "ADDED": "new"}):
        assert (os.environ["KEPT"], os.environ["ADDED"], os.environ["RAY_USAGE_STATS_ENABLED"]) == ("new", "new", "0")
    assert dict(os.environ) == before


def test_ray_folder_is_named_by_its_process_and_removed_afterwards() -> None:
    with ray_folder() as folder:
        (Path(folder) / "file").touch()
        assert Path(folder).name.startswith(f"zorse-{os.getpid()}-")
    assert not Path(folder).exists()


def test_ray_folder_stays_closed_to_others_when_ray_makes_its_own() -> None:
    with ray_folder() as folder:
        # As Ray does when it starts.
        try_to_create_directory(ray_files(folder))
        assert stat.S_IMODE(Path(ray_files(folder)).stat().st_mode) == 0o777
        assert stat.S_IMODE(Path(folder).stat().st_mode) == 0o700


def test_commands_that_start_at_the_same_time_share_one_token(tmp_path: Path) -> None:
    variables = os.environ | {"HOME": str(tmp_path)}
    commands = [subprocess.Popen([sys.executable, "-c", ENTER_ENVIRONMENT], env=variables) for _ in range(8)]
    assert [command.wait() for command in commands] == [0] * 8
    (token,) = (tmp_path / ".ray").iterdir()
    assert (token.name, len(token.read_text()), token.stat().st_mode & 0o777) == ("auth_token", 64, 0o600)


def test_token_that_exists_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    with ray_environment({}):
        assert (tmp_path / ".ray" / "auth_token").read_text() == "mine"


def test_token_in_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", "theirs")
    with ray_environment({}):
        assert list(tmp_path.iterdir()) == []


def test_ray_environment_ignores_an_unwritable_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    with ray_environment({"ADDED": "1"}):
        assert os.environ["ADDED"] == "1"
