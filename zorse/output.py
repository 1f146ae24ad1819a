"""Makes standard output and error safe for texts that their encoding cannot hold."""

from __future__ import annotations

import io
import sys


def make_output_robust() -> None:
    """Have both streams print a replacement for each character that their encoding lacks.

    Without this, printing such a character raises UnicodeEncodeError and ends the command.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
