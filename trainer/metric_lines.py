"""Names and reads the files of a run's figures: `metrics/<images seen>.jsonl`, each of at most `PART_LINES` lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from zorse_common.storage import Storage

METRICS_FOLDER = "metrics"
PART_LINES = 200


def part_name(seen: int) -> str:
    """Return the name of the part whose first line is logged after `seen` images."""
    return f"{METRICS_FOLDER}/{seen:012d}.jsonl"


def read_parts(storage: Storage) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name and the parsed lines of each part, oldest first. Lines that are torn or damaged are left out."""
    for name in sorted((storage / METRICS_FOLDER).files()):
        if name.endswith(".jsonl"):
            text = storage.read(f"{METRICS_FOLDER}/{name}").decode(errors="replace")
            lines = [json_object(line) for line in text.split("\n")]
            yield f"{METRICS_FOLDER}/{name}", [line for line in lines if isinstance(line.get("images"), int)]


def part_content(lines: list[dict[str, Any]]) -> bytes:
    """Return the file of a part with `lines`."""
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def json_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`; an empty one if there is none."""
    try:
        content = json.loads(text)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
