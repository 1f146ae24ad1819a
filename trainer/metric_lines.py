"""Names and reads the files of a run's figures: `metrics/<images seen>.jsonl`, each of at most `PART_LINES` lines."""

from __future__ import annotations

from collections.abc import Iterator

from zorse_common.storage import Storage

METRICS_FOLDER = "metrics"
PART_LINES = 200


def part_name(seen: int) -> str:
    """Return the name of the part whose first line is logged after `seen` images."""
    return f"{METRICS_FOLDER}/{seen:012d}.jsonl"


def read_parts(storage: Storage) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each part, oldest first."""
    for name in sorted((storage / METRICS_FOLDER).files()):
        if name.endswith(".jsonl"):
            text = storage.read(f"{METRICS_FOLDER}/{name}").decode(errors="replace")
            yield f"{METRICS_FOLDER}/{name}", [f"{line}\n" for line in text.split("\n") if line]
