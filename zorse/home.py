"""Provides a home folder and a user name in containers and schedulers that set none."""

from __future__ import annotations

import getpass
import os
import stat
import tempfile
from pathlib import Path

from zorse_common.errors import ZorseError


class HomeError(ZorseError):
    """The folder that replaces a missing home folder cannot be used."""


def provide_home() -> None:
    """Set HOME and USER in `os.environ` so that libraries can use them. Usable values are kept.

    Ray keeps its token below the home folder; DeepSpeed, torch and the server keep their caches there. Without a
    writable HOME, and without an entry in the passwd file, they fail with stack traces. The replacement is a folder
    below the temporary folder that only this user can write; later commands use the same folder.

    Raises:
        HomeError: the replacement folder belongs to another user, or others can write it.
    """
    # Path.home() raises without HOME and passwd entry. expanduser returns "~" then, which _usable refuses.
    home = Path(os.path.expanduser("~"))  # noqa: PTH111
    os.environ["HOME"] = str(home if _usable(home) else _temporary_home())
    try:
        getpass.getuser()
    except (KeyError, OSError):  # OSError from Python 3.13 on
        os.environ["USER"] = str(os.getuid())


def _usable(home: Path) -> bool:
    return home.is_absolute() and home.is_dir() and os.access(home, os.W_OK | os.X_OK)


def _temporary_home() -> Path:
    """Create the replacement folder if it does not exist, check its owner and permissions, and return it."""
    home = Path(tempfile.gettempdir()) / f"zorse-home-{os.getuid()}"
    home.mkdir(mode=0o700, exist_ok=True)
    status = home.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise HomeError(f"{home} is open to other users: set HOME to a folder that only you can write")
    return home
