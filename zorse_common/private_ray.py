"""The folder, environment variables and token of a Ray that a command starts for itself and stops at its end."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

RAY_FOLDERS = Path("/tmp")
"""The parent of Ray's folders. It is short, because sockets lie inside, whose paths have at most 107 characters."""


def ray_folder_prefix(process: int) -> str:
    """Return the start of the folder names of the process with the id `process`."""
    return f"zorse-{process}-"


@contextlib.contextmanager
def ray_folder() -> Iterator[str]:
    """Make a folder that only this user can enter, yield its path, and remove it afterwards.

    A Ray has its files in the subfolder `ray_files(folder)`.
    """
    folder = tempfile.mkdtemp(prefix=ray_folder_prefix(os.getpid()), dir=RAY_FOLDERS)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ray_files(folder: str) -> str:
    """Return the path for Ray's files in `folder`, which Ray takes as `_temp_dir`.

    Ray lets every user of the machine write there, so that it must not be `folder` itself.
    """
    return f"{folder}/t"


@contextlib.contextmanager
def ray_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set `variables` and zorse's defaults for Ray in `os.environ` while the block runs, and provide a token."""
    _provide_token()
    added = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's default niceness of workers is 15: any other busy process would nearly stop them.
        "RAY_worker_niceness": "0",
        # All of Ray's processes listen on loopback. Otherwise they would listen on every interface.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        **variables,
    }
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _provide_token() -> None:
    """Write the token that authenticates Ray's processes to each other, unless there is one.

    Ray would write it itself, but not atomically: if two commands start at the same time with a new home folder, one
    could read a half-written token, or have its token overwritten. A hard link appears whole or not at all.
    """
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):  # Ray reports an unusable home folder itself
        path = Path.home() / ".ray" / "auth_token"
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.link(file.name, path)  # FileExistsError if another command was first
