"""Tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` below `titles`; nothing where there are none."""
    # Here, since commands are assembled without it.
    from rich.console import Console
    from rich.table import Table

    if not rows:
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    # What people named and wrote is no markup.
    Console(markup=False, emoji=False, highlight=False).print(table, "")
