"""Commands where nobody has given them a home folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PRINT = "import os; from zorse.home import provide_home; provide_home(); print(os.environ['HOME'])"


def _home(temporary: Path, home: str | None) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name != "HOME"} | {"TMPDIR": str(temporary)}
    if home is not None:
        variables["HOME"] = home
    return subprocess.run([sys.executable, "-c", PRINT], env=variables, capture_output=True, text=True, check=False)


def test_a_usable_home_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert _home(tmp_path, str(tmp_path / "mine")).stdout == f"{tmp_path / 'mine'}\n"


def test_an_unusable_home_is_replaced_by_one_of_the_users_alone(tmp_path: Path) -> None:
    for _ in range(2):
        assert _home(tmp_path, "/proc/none").stdout == f"{tmp_path}/zorse-home-{os.getuid()}\n"
    (made,) = tmp_path.iterdir()
    assert made.stat().st_mode & 0o777 == 0o700


def test_a_relative_home_is_none(tmp_path: Path) -> None:
    assert _home(tmp_path, ".").stdout == f"{tmp_path}/zorse-home-{os.getuid()}\n"


def test_a_home_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / f"zorse-home-{os.getuid()}").mkdir()
    (tmp_path / f"zorse-home-{os.getuid()}").chmod(0o777)
    done = _home(tmp_path, "/proc/none")
    assert done.returncode == 1
    assert "is open to other users: set HOME" in done.stderr.splitlines()[-1]


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / f"zorse-home-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    assert "is open to other users" in _home(tmp_path, "/proc/none").stderr
