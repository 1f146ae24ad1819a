"""Standard output and error that no text can break."""

from __future__ import annotations

import io
import sys


def make_output_robust() -> None:
    """Have both streams replace characters that their encoding does not have, instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
