"""Makes an environment for each peer in `.peers/`, with pinned versions and apart from this project's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(os.environ.get("ZORSE_PEERS", Path(__file__).parents[2] / ".peers"))
"""Where environments and models lie, outside version control."""
_WORK = ("onnxruntime==1.31.1", "numpy==2.4.6", "pillow==13.0.0")
_UVICORN = ("uvicorn==0.54.0", "uvloop==0.23.0", "httptools==0.9.0")
PINS: dict[str, tuple[str, ...]] = {
    "fastapi": ("fastapi==0.163.2", *_UVICORN, *_WORK),
    "litserve": ("litserve==0.2.19", *_UVICORN, *_WORK),
    "bentoml": ("bentoml==1.4.40", *_UVICORN, *_WORK),
    "mlserver": ("mlserver==1.7.1", *_UVICORN, *_WORK),
    # Daft 0.7 wants an older pyarrow than this project, and for its Ray runner an older Ray.
    "daft": ("daft==0.7.26", "pyarrow==25.0.1", "pydantic==2.14.3", "rich==15.0.0", *_WORK),
    "py-spy": ("py-spy==0.4.3",),
}
_PIP_SECONDS = 900
_PINS_FILE = "zorse-pins.txt"


class EnvironmentFailedError(Exception):
    """An environment cannot be made; the text says why."""


def environment(name: str) -> Path:
    """Return the folder of the programs of the environment `name`, which is made if it is missing or its pins changed.

    Raises:
        EnvironmentFailedError: pip cannot install the packages.
    """
    folder, pins = ENVIRONMENTS / name, "\n".join(PINS[name])
    stamp = folder / _PINS_FILE
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *PINS[name])
        stamp.write_text(pins, encoding="utf-8")
    return folder / "bin"


def versions(name: str) -> dict[str, str]:
    """Return the versions of the packages that the environment `name` pins."""
    return dict(pin.split("==") for pin in PINS[name])


def _run(*command: str) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentFailedError(str(error)) from error
    if result.returncode:
        raise EnvironmentFailedError((result.stderr.strip().splitlines() or ["pip failed without a word"])[-1])
