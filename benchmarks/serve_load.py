"""Shows how `zorse serve` behaves under overload, absent and slow clients, and mixed sizes.

    python -m benchmarks.serve_load [CHECK …] [--size small|full]

A check starts a server of its own, as by default. Without names all run. Sizes: small takes seconds and shows that a
check works; full is what the project states. Writes `benchmarks/results/serve_load.json`, one row a measurement.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.load import memory, overload, photographs, slow_senders, vanishing
from benchmarks.peers.environments import ENVIRONMENTS
from benchmarks.peers.models import export_models
from benchmarks.peers.servers import SERVERS, Running, running, stop_servers_on_sigterm
from benchmarks.report import write_report

Check = Callable[[Running, bool], list[dict[str, Any]]]
"""Takes the server and whether the size is full, and returns rows."""
CHECKS: dict[str, Check] = {
    "overload": overload.measure_overload,
    "vanishing": vanishing.measure_vanishing_clients,
    "slow-senders": slow_senders.measure_slow_senders,
    "memory": memory.measure_memory,
    "photographs": photographs.measure_photographs,
}


def main() -> None:
    """Run the checks and write their rows."""
    stop_servers_on_sigterm()
    parser = argparse.ArgumentParser(description="Measure zorse serve under difficult loads.")
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--size", choices=["small", "full"], default="full")
    parser.add_argument("--name", default="serve_load", help="the name of the result")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.checks) - set(CHECKS))
    if unknown:
        parser.error(f"there is no check {unknown[0]}: {', '.join(CHECKS)}")
    repository = export_models(ENVIRONMENTS / "repository")
    rows = [row for name in arguments.checks or CHECKS for row in _run(name, repository, arguments.size == "full")]
    write_report(arguments.name, {"size": arguments.size, "rows": rows})


def _run(name: str, repository: Path, full: bool) -> list[dict[str, Any]]:
    """Return the rows of one check on a new server."""
    with running(SERVERS[0], repository, "dcgan32 infer") as server:
        rows = CHECKS[name](server, full)
    return [{"check": name, **row} for row in rows]


if __name__ == "__main__":
    main()
