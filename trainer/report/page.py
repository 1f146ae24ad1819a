"""Writes `report.html`: one page that shows a run and needs no other file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

from trainer.config import flatten
from trainer.history import EVENTS_FILE, RunHistory
from trainer.report.charts import charts_section
from trainer.report.samples import samples_section
from trainer.run_summary import format_time, format_value, non_default_keys, summary_text
from zorse_common.storage import Storage

REPORT_FILE = "report.html"
EVENTS = 300
"""The page shows this many events, the newest ones."""


def write_report(storage: Storage) -> None:
    """Write `report.html` into the run's folder. Sections without content are left out.

    Raises:
        OSError: the folder cannot be read or written.
    """
    run = RunHistory(storage)
    sections = (_head(run), samples_section(run), charts_section(run), _events(run), _config(run), _environment(run))
    page = Template(_asset("page.html")).substitute(
        title=escape(run.name),
        style=_asset("page.css"),
        body="\n".join(filter(None, sections)),
        script=_asset("page.js"),
    )
    storage.write(REPORT_FILE, page.encode(errors="replace"))


def _asset(name: str) -> str:
    """Return the text of a file beside this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _head(run: RunHistory) -> str:
    pairs = summary_text(run).items()
    summary = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    bar = f'<progress max="{run.total_images}" value="{run.images_seen}"></progress>' if run.total_images else ""
    reason = f'<p class="reason">{escape(run.reason)}</p>' if run.reason else ""
    state = f'<span class="state {escape(run.state)}">{escape(run.state)}</span>'
    return f"<header><h1>{escape(run.name)} {state}</h1>{reason}{bar}<dl>{summary}</dl></header>"


def _events(run: RunHistory) -> str:
    rows = [(format_time(event.time), f"{event.images:,}", event.message) for event in run.events[-EVENTS:]]
    left_out = len(run.events) - len(rows)
    note = f"<p>{left_out:,} earlier ones are in {EVENTS_FILE}.</p>" if left_out else ""
    return f"<section><h2>Events</h2>{note}{_table(('time (UTC)', 'images', 'event'), rows)}</section>" if rows else ""


def _config(run: RunHistory) -> str:
    if not run.config:
        return ""
    rows = non_default_keys(run.config)
    keys = {key for key, *_ in rows}
    others = [(key, format_value(value)) for key, value in flatten(run.config).items() if key not in keys]
    hidden = (
        f"<details><summary>{len(others)} keys at their defaults</summary>{_table(('key', 'value'), others)}</details>"
    )
    return (
        "<section><h2>Config</h2><p>The keys that differ from their default or have none.</p>"
        f"{_table(('key', 'value', 'default'), rows)}{hidden if others else ''}</section>"
    )


def _environment(run: RunHistory) -> str:
    rows = [(key, format_value(value)) for key, value in run.environment.items()]
    return f"<section><h2>Environment</h2>{_table(('what', 'version'), rows)}</section>" if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
