"""A home folder and a user name where a container or a scheduler gives none."""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

from zorse_common.errors import ZorseError


class HomeError(ZorseError):
    """There is no folder for what libraries keep between commands."""


def provide_home() -> None:
    """Set HOME and USER in `os.environ` such that libraries can use them; what is usable stays.

    Ray keeps its token below the home folder, and DeepSpeed, torch and the server their caches. Without a HOME that
    can be written, and without a line in the passwd file, they fail with stack traces. The folder in its place lies
    below the temporary folder, is the user's alone, and is used again by the next command.

    Raises:
        HomeError: that folder is another user's.
    """
    # Path.home() raises where there is neither HOME nor a line; this leaves the "~", which is no folder.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    os.environ["HOME"] = str(home if _usable(home) else _temporary_home())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # the latter from Python 3.13 on
        os.environ["USER"] = str(os.getuid())


def _usable(home: Path) -> bool:
    return home.is_absolute() and home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def _temporary_home() -> Path:
    """Make sure of the folder that stands for a home, and return it."""
    home = Path(tempfile.gettempdir()) / f"zorse-home-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    found = home.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise HomeError(f"{home} is open to other users: set HOME to a folder that only you can write")
    return home
