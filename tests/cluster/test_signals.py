"""Every command stops cleanly on any stop signal, sent to its process or to its process group."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from tests.cluster import commands
from tests.cluster.commands import Outcome, Result, Started, Target, outcome, write_table

pytestmark = pytest.mark.ray

STOPPED = 128
SCENES: dict[str, Callable[[Path], AbstractContextManager[tuple[Started, Result]]]] = {
    "train": commands.train,
    "serve": commands.serve,
    "serve --proxy ray": partial(commands.serve, options=("--proxy", "ray")),
    "export": commands.export,
    "demo, training": partial(commands.demo, until="digits/metrics"),
    "demo, serving": partial(commands.demo, until="serve.log", images=640),
}
RESULTS = {
    "train": "preempted, 1 checkpoint",
    "serve": "request answered 200",
    "serve --proxy ray": "request answered 200",
    "export": "0 files published",
    "demo, training": "-",
    "demo, serving": "-",
}
SIGNALS = (*commands.STOPS, signal.SIGKILL)


def _code(name: str, number: signal.Signals) -> int:
    """The exit code that the command must end with."""
    if number is signal.SIGKILL:
        return -signal.SIGKILL
    if name in ("train", "demo, training"):
        return 75
    if name.startswith("serve"):
        return 0
    # A closed terminal is to a command as if it were terminated.
    return STOPPED + (signal.SIGINT if number is signal.SIGINT else signal.SIGTERM)


def _stopped(name: str, folder: Path, number: signal.Signals, to: Target) -> Outcome:
    with SCENES[name](folder / "scene") as (command, result):
        end = outcome(name, command, result, number, to)
        assert (end.code, end.result) == (_code(name, number), RESULTS[name]), command.log
        return end


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_signal_to_the_group_stops_an_export_cleanly(tmp_path: Path) -> None:
    """Training and serving: see test_preemption.py and test_server_stops.py."""
    _stopped("export", tmp_path, signal.SIGTERM, "group")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Outcome], None]]:
    """Return a function that adds an outcome to `signals.md` and `signals.json`. Their text is printed at the end."""
    outcomes: list[Outcome] = []
    folder = tmp_path_factory.mktemp("table")

    def add(end: Outcome) -> None:
        outcomes.append(end)
        write_table(outcomes, folder)

    yield add
    sys.stdout.write(f"\n{write_table(outcomes, folder)}\nwritten to {folder}\n")


@pytest.mark.soak
@pytest.mark.timeout(900)
@pytest.mark.parametrize("to", ["process", "group"])
@pytest.mark.parametrize("number", SIGNALS, ids=lambda number: number.name)
@pytest.mark.parametrize("name", SCENES)
def test_signals_of_every_kind_stop_every_command(
    name: str, number: signal.Signals, to: Target, tmp_path: Path, table: Callable[[Outcome], None]
) -> None:
    table(_stopped(name, tmp_path, number, to))
