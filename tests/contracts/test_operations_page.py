"""The page on operating a server has every metric."""

from __future__ import annotations

import re
from pathlib import Path

from serving.metrics import COUNTERS, GAUGES, HISTOGRAMS, LAST_BATCH
from serving.readings import MEMORY

PAGE = Path(__file__).parents[2] / "docs" / "serving-operations.md"


def test_page_has_a_row_for_every_metric_with_its_type() -> None:
    rows = re.findall(r"^\| `(zorse_\w+)` \| (\w+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    metrics = (
        dict.fromkeys(HISTOGRAMS, "histogram")
        | {f"{name}_total": "counter" for name in COUNTERS}
        | dict.fromkeys((*GAUGES, *LAST_BATCH, MEMORY), "gauge")
    )
    assert len(rows) == len(metrics)
    assert dict(rows) == metrics
