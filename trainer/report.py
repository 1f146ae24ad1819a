"""`report.html`: one page that shows a run, with all it needs inside the file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

from PIL import Image as Pillow

from trainer.config import flatten
from trainer.history import EVENTS_FILE, Point, Run, chosen, facts, means, moment, shown, thin
from zorse_common.storage import Storage

REPORT_FILE = "report.html"

SAMPLES = 40
SAMPLE_BYTES = 12 * 2**20
"""What all grids may take together, before base64 adds a third."""
SMALL = 400
"""A grid less wide than this, in pixels, is drawn larger."""
EVENTS = 300
MEANS = 60

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 270, 48, 632, 10, 228
"""Of a chart and of the plot in it."""
COLOURS = 8


def write_report(storage: Storage) -> None:
    """Write `report.html` into the run's folder; what the run did not get to is left out.

    Raises:
        OSError: the folder cannot be read or written.
    """
    storage.write(REPORT_FILE, page(Run(storage)).encode(errors="replace"))


def page(run: Run) -> str:
    """The page as HTML."""
    sections = (_head(run), _samples(run), _charts(run), _events(run), _config(run), _environment(run))
    return _PAGE.format(title=escape(run.name), style=_STYLE, body="\n".join(filter(None, sections)), script=_SCRIPT)


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of `items`, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def ticks(low: float, high: float) -> list[float]:
    """Round numbers, about five, from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999 * rough)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _head(run: Run) -> str:
    told = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(fact)}</dd></div>" for name, fact in facts(run).items())
    bar = f'<progress max="{run.total_images}" value="{run.images_seen}"></progress>' if run.total_images else ""
    reason = f'<p class="reason">{escape(run.reason)}</p>' if run.reason else ""
    state = f'<span class="state {escape(run.state)}">{escape(run.state)}</span>'
    return f"<header><h1>{escape(run.name)} {state}</h1>{reason}{bar}<dl>{told}</dl></header>"


def _samples(run: Run) -> str:
    wanted = evenly(run.samples, SAMPLES)
    grids = {images: grid for images in wanted if (grid := _embedded(run.sample(images), SAMPLE_BYTES // len(wanted)))}
    if not grids:
        return ""
    *earlier, last = grids
    pictures = "\n".join(
        f'<img {"hidden " if images != last else ""}alt="Samples after {images:,} images" '
        f'data-caption="{images:,} images" {grid}>'
        for images, grid in grids.items()
    )
    slider = (
        '<label for="when">Drag, or use the arrow keys</label>'
        f'<input type="range" id="when" min="0" max="{len(earlier)}" value="{len(earlier)}">'
    )
    return (
        '<section id="samples"><h2>Samples</h2>'
        f'<div class="slider"><output id="caption" for="when">{last:,} images</output>{slider if earlier else ""}</div>'
        f"{pictures}</section>"
    )


def _embedded(content: bytes, most: int) -> str:
    """A grid as attributes of an `img`: as JPEG where the PNG has more than `most` bytes, none where it is damaged."""
    kind = "png"
    try:
        grid = Pillow.open(io.BytesIO(content))
        width, height = grid.size
        if len(content) > most:
            kind, small = "jpeg", grid.convert("RGB")
            while len(content := _jpeg(small)) > most:
                small = small.reduce(2)
    except (OSError, Pillow.DecompressionBombError):
        return ""
    pixels = 'class="pixels" ' if width < SMALL else ""
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return f'{pixels}width="{width}" height="{height}" src="{source}"'


def _jpeg(image: Pillow.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _charts(run: Run) -> str:
    curves = run.curves
    if not curves and not run.realness_curves:
        return ""
    performance = run.performance_curves
    shares = {
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
        _chart("Waits", "Percent of the time spent waiting for images, and in hooks.", shares, (0, 1)),
    )
    return (
        '<section id="curves"><h2>Curves</h2><p>Faint: as logged. Bold: means over a sixtieth of the run. '
        f'A cross: not a finite number.</p><div class="charts">{"".join(charts)}</div></section>'
    )


@dataclass(frozen=True)
class _Axes:
    """Where figures lie on the drawing: images from 0 to `last`, values from `low` to `high`."""

    last: float
    low: float
    high: float

    def x(self, images: float) -> float:
        return LEFT + (RIGHT - LEFT) * images / self.last

    def y(self, value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - self.low) / (self.high - self.low)

    def path(self, points: Sequence[Point]) -> str:
        """A line that breaks where a value is not finite; a value alone is a dot, drawn by the line's round ends."""
        parts = (list(part) for finite, part in groupby(points, lambda point: math.isfinite(point[1])) if finite)
        return "".join("M" + "L".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in part) + "h0" for part in parts)

    def lost(self, points: Sequence[Point]) -> str:
        """A cross at the upper edge wherever a value is not finite."""
        places = [self.x(x) for x, y in points if not math.isfinite(y)]
        return "".join(f"M{x - 3:.1f},{TOP - 3}l6,6m-6,0l6,-6" for x in places)


def _chart(
    title: str,
    note: str,
    curves: Mapping[str, Sequence[Point]],
    span: tuple[float, ...] = (),
    level: tuple[float, str] | None = None,
) -> str:
    """A figure of `curves`, whose axis of values holds at least `span`, with a marked `level`."""
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return ""
    thinned = [thin(points) for points in curves.values()]
    values = [y for points in thinned for _, y in points if math.isfinite(y)] + list(span) or [0.0]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    axes = _Axes(max(1.0, *(points[-1][0] for points in thinned)), low - margin, high + margin)
    drawn = [
        *(
            f'<path class="grid" d="M{LEFT},{axes.y(y):.1f}H{RIGHT}"/>'
            f'<text x="{LEFT - 6}" y="{axes.y(y) + 4:.1f}" class="end">{y:.4g}</text>'
            for y in ticks(axes.low, axes.high)
        ),
        *(f'<text x="{axes.x(x):.1f}" y="{BOTTOM + 18}">{_short(x)}</text>' for x in ticks(0, axes.last)),
        f'<text x="{RIGHT}" y="{HEIGHT - 6}" class="end">images seen</text>',
        *(f'<path class="curve faint c{i % COLOURS}" d="{axes.path(points)}"/>' for i, points in enumerate(thinned)),
        *(
            f'<path class="curve c{i % COLOURS}" d="{axes.path(means(points, MEANS))}{axes.lost(thinned[i])}"/>'
            for i, points in enumerate(curves.values())
        ),
    ]
    if level:
        y = axes.y(level[0])
        drawn.append(f'<path class="level" d="M{LEFT},{y:.1f}H{RIGHT}"/>')
        drawn.append(f'<text x="{RIGHT}" y="{y - 5:.1f}" class="end told">{escape(level[1])}</text>')
    legend = "".join(
        f'<li><i class="c{i % COLOURS}"></i>{escape(name)} <b>{points[-1][1]:.4g}</b></li>'
        for i, (name, points) in enumerate(curves.items())
    )
    return (
        f"<figure><figcaption><h3>{escape(title)}</h3><p>{escape(note)}</p>"
        f'<ul class="legend">{legend}</ul></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(drawn)}</svg></figure>'
    )


def _short(images: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if images >= size:
            return f"{images / size:.4g}{unit}"
    return f"{images:g}"


def _events(run: Run) -> str:
    rows = [(moment(event.time), f"{event.images:,}", event.message) for event in run.events[-EVENTS:]]
    left_out = len(run.events) - len(rows)
    note = f"<p>{left_out:,} earlier ones are in {EVENTS_FILE}.</p>" if left_out else ""
    return f"<section><h2>Events</h2>{note}{_table(('time (UTC)', 'images', 'event'), rows)}</section>" if rows else ""


def _config(run: Run) -> str:
    if not run.config:
        return ""
    rows = chosen(run.config)
    keys = {key for key, *_ in rows}
    others = [(key, shown(value)) for key, value in flatten(run.config).items() if key not in keys]
    hidden = (
        f"<details><summary>{len(others)} keys at their defaults</summary>{_table(('key', 'value'), others)}</details>"
    )
    return (
        "<section><h2>Config</h2><p>The keys that differ from their default or have none.</p>"
        f"{_table(('key', 'value', 'default'), rows)}{hidden if others else ''}</section>"
    )


def _environment(run: Run) -> str:
    rows = [(key, shown(value)) for key, value in run.environment.items()]
    return f"<section><h2>Environment</h2>{_table(('what', 'version'), rows)}</section>" if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""

_SCRIPT = """
const slider = document.getElementById("when"), caption = document.getElementById("caption");
const pictures = document.querySelectorAll("#samples img");
function show() {
  pictures.forEach((picture, index) => { picture.hidden = index !== slider.valueAsNumber; });
  caption.textContent = pictures[slider.valueAsNumber].dataset.caption;
  slider.setAttribute("aria-valuetext", caption.textContent);
}
if (slider) {
  slider.addEventListener("input", show);
  show();
}
"""

_STYLE = """
:root {
  --ground: #f6f7f9; --card: #fff; --ink: #1c2230; --soft: #626b7c; --line: #e2e5ea; --accent: #2f6fde;
  --good: #1a7f4f; --bad: #c0304c; --waits: #a86208;
  --c0: #2f6fde; --c1: #db6d12; --c2: #1f9d6b; --c3: #8b5cd6;
  --c4: #cf3f5b; --c5: #0e8fa3; --c6: #8a7d12; --c7: #c14fa5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12151b; --card: #1a1f28; --ink: #e6e9ef; --soft: #98a2b3; --line: #2c333f; --accent: #7aa7ff;
    --good: #5fd3a4; --bad: #ff8298; --waits: #ffb566;
    --c0: #7aa7ff; --c1: #ffab5e; --c2: #5fd3a4; --c3: #bd9cff;
    --c4: #ff8298; --c5: #5fd0e0; --c6: #d8cb62; --c7: #f08fd6;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1160px; margin: 0 auto; padding: 28px 20px 60px; }
header, section { margin-bottom: 28px; }
h1 { margin: 0 0 10px; font-size: 26px; overflow-wrap: anywhere; }
h2 { margin: 0 0 10px; font-size: 18px; }
h3 { margin: 0; font-size: 15px; }
.state { font-size: 13px; font-weight: 600; vertical-align: middle; padding: 3px 10px; border-radius: 99px;
  border: 1px solid currentColor; color: var(--soft); }
.state.finished { color: var(--good); } .state.running { color: var(--accent); }
.state.preempted { color: var(--waits); } .state.failed, .state.aborted { color: var(--bad); }
.reason { margin: 0 0 10px; color: var(--bad); overflow-wrap: anywhere; }
progress { width: 100%; height: 8px; accent-color: var(--accent); }
dl { display: flex; flex-wrap: wrap; gap: 8px 36px; margin: 10px 0 0; }
dt { color: var(--soft); font-size: 13px; } dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
#samples, figure, .table { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
#samples { padding: 16px; }
.slider { display: flex; flex-wrap: wrap; align-items: center; gap: 6px 16px; margin-bottom: 12px; }
.slider output { min-width: 9em; font-weight: 600; font-variant-numeric: tabular-nums; }
.slider label { color: var(--soft); font-size: 13px; }
.slider input { flex: 1 1 260px; accent-color: var(--accent); }
#samples img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 4px; background: #fff; }
#samples img.pixels { width: 480px; image-rendering: pixelated; }
#samples img[hidden] { display: none; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 16px; }
figure { margin: 0; padding: 14px 16px; display: flex; flex-direction: column; justify-content: space-between; }
section > p, figcaption p { margin: 0 0 8px; color: var(--soft); font-size: 13px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 6px 0; padding: 0; list-style: none; font-size: 13px; }
.legend i { display: inline-block; width: 14px; height: 3px; margin: 0 6px 4px 0; border-radius: 2px;
  background: var(--colour); }
.legend b { font-variant-numeric: tabular-nums; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 12px; text-anchor: middle; }
svg .end { text-anchor: end; }
svg .told { fill: var(--ink); stroke: var(--card); stroke-width: 4; paint-order: stroke; }
svg path { fill: none; }
.grid { stroke: var(--line); }
.level { stroke: var(--ink); stroke-dasharray: 5 4; }
.curve { stroke: var(--colour); stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round; }
.faint { stroke-width: 1; stroke-opacity: .4; }
.c0 { --colour: var(--c0); } .c1 { --colour: var(--c1); } .c2 { --colour: var(--c2); } .c3 { --colour: var(--c3); }
.c4 { --colour: var(--c4); } .c5 { --colour: var(--c5); } .c6 { --colour: var(--c6); } .c7 { --colour: var(--c7); }
.table { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { padding: 6px 14px; text-align: left; vertical-align: top; overflow-wrap: break-word; }
td:first-child, th { white-space: nowrap; }
th { color: var(--soft); font-size: 13px; font-weight: 500; }
td { border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
details { margin-top: 12px; } summary { margin-bottom: 8px; color: var(--soft); cursor: pointer; }
"""
