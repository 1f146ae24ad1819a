"""Describes and compares runs: formatted text for users, plain data for `--json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from trainer.config import default_leaves, differing_leaves, flatten, validate
from trainer.errors import ConfigError
from trainer.history import CONFIG_FILE, RunHistory
from trainer.run_config import RunConfig

_PLACE = ("run.dir", "run.storage")


def summary_text(run: RunHistory) -> dict[str, str]:
    """Return what is known of a run as formatted text by name, for tables and the report."""
    total, seconds = run.total_images, run.training_seconds
    memory = run.performance_curves.get("memory GiB", [(0, 0.0)])[-1][1]
    texts = {
        "task": run.task,
        "images seen": f"{run.images_seen:,}" + (f" of {total:,}" if total else ""),
        "images/s": _format_figure(run.images_per_second),
        "training time": format_duration(timedelta(seconds=seconds)) if seconds else "",
        "peak memory": f"{memory:.3g} GiB" if memory else "",
        "last update": format_time(run.time),
    }
    return {name: text for name, text in texts.items() if text}


def summary_data(run: RunHistory) -> dict[str, Any]:
    """Return what is known of a run as plain data, for JSON; an unknown value is None."""
    return {
        "run": run.name,
        "place": run.storage.uri,
        "state": run.state,
        "reason": run.reason,
        "task": run.task,
        "images_seen": run.images_seen,
        "total_images": run.total_images,
        "images_per_second": run.images_per_second,
        "time": None if run.time is None else run.time.isoformat(),
        "figures": run.figures,
    }


def differing_keys(runs: Sequence[RunHistory]) -> dict[str, list[Any]]:
    """Return the config keys in which `runs` differ, with the value of each run (None where a run lacks the key).

    The keys of the run's folder are left out.
    """
    rows = differing_leaves([run.config for run in runs], absent=None)
    return {key: row for key, row in rows.items() if key not in _PLACE}


def side_by_side(runs: Sequence[RunHistory]) -> dict[str, list[str]]:
    """Return the state, images seen, speed and newest figures by name, each with one formatted value for each run."""
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return {
        "state": [run.state for run in runs],
        "images seen": [f"{run.images_seen:,}" for run in runs],
        "images/s": [_format_figure(run.images_per_second) for run in runs],
    } | {name: [_format_figure(run.figures.get(name)) for run in runs] for name in names}


def non_default_keys(config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Return the keys of a resolved `config` that differ from their default or have none: key, value, default.

    No key has a default where this version of zorse cannot read the config.
    """
    try:
        defaults = default_leaves(validate(RunConfig, config, CONFIG_FILE))
    except ConfigError:
        defaults = {}
    return [
        (key, format_value(value), format_value(defaults[key]) if key in defaults else "")
        for key, value in flatten(config).items()
        if key not in defaults or defaults[key] != value
    ]


def format_duration(elapsed: timedelta) -> str:
    """Return `elapsed` in its largest unit, such as `3 h`."""
    seconds = max(0, int(elapsed.total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


def format_time(time: datetime | None) -> str:
    """Return `time` in UTC, to the second; an empty text if it is unknown."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if time else ""


def format_value(value: Any) -> str:
    """Return a config's value as it is written in YAML."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _format_figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
