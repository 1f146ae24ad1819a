"""Finds the folder for files that can be made or fetched again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the path of the cache folder `name`. The folder is not created.

    The path is the first of these that can be used: below `XDG_CACHE_HOME`, below `.cache` in a writable home folder,
    below the temporary folder. Containers that run under an arbitrary user id have no writable home folder.
    """
    cache_home = os.environ.get("XDG_CACHE_HOME")
    if cache_home:
        return Path(cache_home) / "zorse" / name
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/nonexistent")
    if os.access(home, os.W_OK):
        return home / ".cache" / "zorse" / name
    return Path(tempfile.gettempdir()) / f"zorse-cache-{os.getuid()}" / name
