"""The report's charts: a run's curves as SVG drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from trainer.curves import Point, bin_means, thin
from trainer.history import RunHistory

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 270, 48, 632, 10, 228
"""The size of a chart, and the sides of the plot in it, in the SVG's own units."""
COLOURS = 8
"""The style sheet has this many colours of curves, which repeat."""
MEANS = 60
"""A bold curve has this many points, each the mean over its share of the run."""


def charts_section(run: RunHistory) -> str:
    """Return the section as HTML; it is empty if the run has logged nothing."""
    curves = run.curves
    if not curves and not run.realness_curves:
        return ""
    performance = run.performance_curves
    percent = {
        name: [(images, 100 * share) for images, share in performance.get(name, [])] for name in ("data wait", "hooks")
    }
    charts = (
        _chart("Figures", "Losses and evaluations.", curves),
        _chart(
            "Realness",
            "The mean probability with which a discriminator takes images for real.",
            run.realness_curves,
            (0, 1),
            (0.5, "undecided"),
        ),
        _chart("Speed", "Images per second of all workers.", {"images/s": performance.get("images/s", [])}, (0,)),
        _chart("Waits", "Percent of the time spent waiting for images, and in hooks.", percent, (0, 1)),
    )
    return (
        '<section id="curves"><h2>Curves</h2><p>Faint: as logged. Bold: means over a sixtieth of the run. '
        f'A cross: not a finite number.</p><div class="charts">{"".join(charts)}</div></section>'
    )


def ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


@dataclass(frozen=True)
class _Axes:
    """Maps data to the drawing: images seen from 0 to `last`, and values from `low` to `high`."""

    last: float
    low: float
    high: float

    def x(self, images: float) -> float:
        return LEFT + (RIGHT - LEFT) * images / self.last

    def y(self, value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low)

    def line(self, points: Sequence[Point]) -> str:
        """Return the path of a line that breaks at values that are not finite.

        Each part ends with a move by 0: the round ends of the stroke draw a single value as a dot.
        """
        parts = (list(part) for finite, part in groupby(points, lambda point: math.isfinite(point[1])) if finite)
        return "".join("M" + "L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in part) + "h0" for part in parts)

    def crosses(self, points: Sequence[Point]) -> str:
        """Return the path of a cross at the top of the plot for each value that is not finite."""
        places = [self.x(x) for x, y in points if not math.isfinite(y)]
        return "".join(f"M{x - 3:.1f},{TOP - 3}l6,6m-6,0l6,-6" for x in places)


def _chart(
    title: str,
    note: str,
    curves: Mapping[str, Sequence[Point]],
    span: tuple[float, ...] = (),
    level: tuple[float, str] | None = None,
) -> str:
    """Return a chart of `curves`.

    The axis of values covers the numbers in `span`. `level` is the value and the name of a dashed line.
    """
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    thinned = [thin(points) for points in curves.values()]
    values = [y for points in thinned for _, y in points if math.isfinite(y)] + list(span) or [0.0]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    axes = _Axes(max(1.0, *(points[-1][0] for points in thinned)), low - margin, high + margin)
    elements = [
        *(
            f'<path class="grid" d="M{LEFT},{axes.y(y):.1f}H{RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{axes.y(y) + 4:.1f}" class="end">{y:.4g}</text>'
            for y in ticks(axes.low, axes.high)
        ),
        *(f'<text x="{axes.x(x):.1f}" y="{BOTTOM + 18}">{_short(x)}</text>' for x in ticks(0, axes.last)),
        f'<text x="{RIGHT}" y="{HEIGHT - 6}" class="end">images seen</text>',
        *(f'<path class="curve faint c{i % COLOURS}" d="{axes.line(points)}"/>' for i, points in enumerate(thinned)),
        *(
            f'<path class="curve c{i % COLOURS}" d="{axes.line(bin_means(points, MEANS))}{axes.crosses(thinned[i])}"/>'
            for i, points in enumerate(curves.values())
        ),
    ]
    if level:
        y = axes.y(level[0])
        elements.append(f'<path class="level" d="M{LEFT},{y:.1f}H{RIGHT}"/>')
        elements.append(f'<text x="{RIGHT}" y="{y - 5:.1f}" class="end level-name">{escape(level[1])}</text>')
    legend = "".join(
        f'<li><i class="c{i % COLOURS}"></i>{escape(name)} <b>{points[-1][1]:.4g}</b></li>'
        for i, (name, points) in enumerate(curves.items())
    )
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p>"
        f'<ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(elements)}</svg>'
        "</figure>"
    )


def _short(images: float) -> str:
    """Return a number of images with a unit, such as `1.5M`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if images >= size:
            return f"{images / size:.4g}{unit}"
    return f"{images:g}"
