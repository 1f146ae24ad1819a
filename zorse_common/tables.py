"""Prints tables and JSON documents on standard output."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` below `titles`, or nothing if there are no rows.

    Long cells are folded in a terminal. Elsewhere each row is one whole line, so that other programs can read it.
    """
    if not rows:
        return
    if sys.stdout is not None and sys.stdout.isatty():
        _print_folded(titles, rows)
        return
    lines = [tuple(" ".join(cell.splitlines()) for cell in row) for row in (titles, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())  # noqa: T201
    print()  # noqa: T201


def print_json(value: Any) -> None:
    """Print `value` as one indented JSON document."""
    print(json.dumps(value, indent=2, ensure_ascii=False))  # noqa: T201


def _print_folded(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    # Imported here, so that commands that print no table start faster.
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # Markup is off: cells hold names and texts of users, in which brackets have no meaning.
    Console(markup=False, emoji=False, highlight=False).print(table, "")
