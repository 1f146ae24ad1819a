"""Draws the clients and the replicas of `benchmarks.serve_elastic` over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from trainer.report.charts import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 260, 40, 704, 34, 212
_CURVES = {"clients": "#9aa4b2", "replicas": "#1f6feb"}
"""The colours of the curves by name."""
_STYLE = "font:13px sans-serif;fill:#333"


def chart(samples: Sequence[Mapping[str, float]]) -> str:
    """Return an SVG drawing of the samples: their `clients` and `replicas` by their `seconds`, as steps."""
    last = samples[-1]["seconds"]
    highest = max(max(sample[name] for name in _CURVES) for sample in samples)

    def x(seconds: float) -> float:
        return LEFT + (RIGHT - LEFT) * seconds / last

    def y(count: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * count / highest

    def steps(name: str) -> str:
        changes = [after for before, after in pairwise(samples) if before[name] != after[name]]
        places = [f"H{x(sample['seconds']):.1f}V{y(sample[name]):.1f}" for sample in changes]
        return f"M{LEFT},{y(samples[0][name]):.1f}{''.join(places)}H{RIGHT}"

    grid = [
        f'<path d="M{LEFT},{y(count):.1f}H{RIGHT}" stroke="#e3e6ea"/>'
        f'<text x="{LEFT - 8}" y="{y(count) + 4:.1f}" text-anchor="end">{count:g}</text>'
        for count in ticks(0, highest)
        if count == int(count)
    ]
    times = [
        f'<text x="{x(time):.1f}" y="{BOTTOM + 20}" text-anchor="middle">{time:g}</text>' for time in ticks(0, last)
    ]
    curves = [
        f'<path d="{steps(name)}" fill="none" stroke="{colour}" stroke-width="2"/>' for name, colour in _CURVES.items()
    ]
    legend = [
        f'<path d="M{LEFT + 110 * place},16h20" stroke="{colour}" stroke-width="3"/>'
        f'<text x="{LEFT + 26 + 110 * place}" y="20">{name}</text>'
        for place, (name, colour) in enumerate(_CURVES.items())
    ]
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" style="{_STYLE}">',
        "<title>Clients and replicas over time</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        *grid,
        *times,
        f'<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">seconds</text>',
        *curves,
        *legend,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
