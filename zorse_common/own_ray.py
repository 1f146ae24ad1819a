"""What each Ray that a command starts for itself has of its own: a folder and an environment."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

FOLDERS = Path("/tmp")
"""Ray's sockets lie in its folder, and a socket's path may have 107 characters at most."""


def folder_prefix(process: int) -> str:
    """Return how the names of the folders of the process with this number begin."""
    return f"zorse-{process}-"


@contextlib.contextmanager
def ray_folder() -> Iterator[str]:
    """Yield the path of a new folder for a Ray, which is removed afterwards."""
    folder = tempfile.mkdtemp(prefix=folder_prefix(os.getpid()), dir=FOLDERS)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` and those of every Ray of our own in `os.environ` while the block runs; there is a token then."""
    _provide_token()
    # By default Ray gives its workers what processor time others leave (nice 15): any other work would stop them.
    wanted = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", **variables}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _provide_token() -> None:
    """Write the token with which Ray's processes know each other, unless there is one.

    Ray would do so itself, in place: of two commands that start at once with a new home, one would read what the other
    is writing, or lose its token to it.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # Ray says what is wrong with the home folder
        path = Path.home() / ".ray" / "auth_token"
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # fails where another command was first
