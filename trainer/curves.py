"""Curves of figures over a run, and what a drawing of limited width needs of long ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

BINS = 500
"""A curve of more than twice as many points keeps the lowest and the highest of each of so many bins."""

Point = tuple[float, float]
"""Images seen, and the figure at that moment, which may be NaN or infinite."""


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """Return about 1000 of `points`: the first, the last, and the lowest and highest of each bin.

    Where a bin has figures that are not finite, the first of them is kept too.
    """
    count = len(points)
    if count <= 2 * BINS:
        return points
    kept = {0, count - 1}
    for part in range(BINS):
        indices = range(part * count // BINS, (part + 1) * count // BINS)
        finite = [index for index in indices if math.isfinite(points[index][1])]
        if finite:
            kept |= {min(finite, key=lambda index: points[index][1]), max(finite, key=lambda index: points[index][1])}
        if len(finite) < len(indices):
            kept.add(next(index for index in indices if not math.isfinite(points[index][1])))
    return [points[index] for index in sorted(kept)]


def bin_means(points: Sequence[Point], bins: int) -> list[Point]:
    """Return the means of `points` in at most `bins` bins of neighbours.

    Figures that are not finite are left out; the mean of a bin that has no others is NaN.
    """
    averages: list[Point] = []
    count = len(points)
    parts = min(count, bins)
    for part in range(parts):
        near = points[part * count // parts : (part + 1) * count // parts]
        finite = [y for _, y in near if math.isfinite(y)]
        averages.append((fmean(x for x, _ in near), fmean(finite) if finite else math.nan))
    return averages
