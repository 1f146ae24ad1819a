"""The home folder of commands without a usable HOME."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRINT = "import os; from zorse.home import provide_home; provide_home(); print(os.environ['HOME'])"


def _run(temporary: Path, home: str | None) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "HOME"} | {"TMPDIR": str(temporary)}
    if home is not None:
        variables["HOME"] = home
    return subprocess.run([sys.executable, "-c", PRINT], env=variables, capture_output=True, text=True, check=False)


def test_home_that_is_usable_is_kept(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    assert _run(tmp_path, str(tmp_path / "home")).stdout == f"{tmp_path / 'home'}\n"


def test_home_that_is_unusable_is_replaced_by_a_private_folder(tmp_path: Path) -> None:
    for _ in range(2):
        assert _run(tmp_path, "/proc/none").stdout == f"{tmp_path}/zorse-home-{os.getuid()}\n"
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_home_that_is_relative_is_replaced(tmp_path: Path) -> None:
    assert _run(tmp_path, ".").stdout == f"{tmp_path}/zorse-home-{os.getuid()}\n"


def test_home_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"zorse-home-{os.getuid()}").mkdir()
    (tmp_path / f"zorse-home-{os.getuid()}").chmod(0o777)
    done = _run(tmp_path, "/proc/none")
    assert done.returncode == 1
    assert "is open to other users: set HOME" in done.stderr.splitlines()[-1]


def test_home_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"zorse-home-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert "is open to other users" in _run(tmp_path, "/proc/none").stderr
