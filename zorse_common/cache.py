"""Where files are kept that can be made or fetched again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """Return the folder `name` of zorse's cache, which need not exist yet.

    It lies below `XDG_CACHE_HOME`, else below `.cache` of the user's home, and below the temporary folder where there
    is no home that can be written, as in containers with any user number.
    """
    given = os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given) / "zorse" / name
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("/nonexistent")
    if os.access(home, os.W_OK):
        return home / ".cache" / "zorse" / name
    return Path(tempfile.gettempdir()) / f"zorse-cache-{os.getuid()}" / name
