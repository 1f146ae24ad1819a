"""`report.html`: one page that shows a run, with all it needs inside the file."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from html import escape
from itertools import groupby

from PIL import Image as Pillow

from trainer.config import flatten
from trainer.history import Run, age, defaults, shown
from trainer.storage import Storage

REPORT_FILE = "report.html"

SAMPLES = 40
SAMPLE_BYTES = 12 * 2**20
"""What all grids may take together, before base64 adds a third."""
EVENTS = 300
BUCKETS = 500
"""A curve of more than twice as many points keeps the lowest and the highest of each bucket."""

Point = tuple[float, float]
Curves = Mapping[str, Sequence[Point]]

_BELIEF = re.compile(r"^D\w*\((real|fake)\)$")
_NO_LOSS = frozenset({"images", "seconds", "images/s", "data wait", "memory GiB"})


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


def thin(points: Sequence[Point]) -> Sequence[Point]:
    """About 1000 of `points`: their first and last, all extremes that one could see, and a figure that is not finite.

    A figure that is not finite stands for those in its bucket.
    """
    count = len(points)
    if count <= 2 * BUCKETS:
        return points
    kept = {0, count - 1}
    for bucket in range(BUCKETS):
        indices = range(bucket * count // BUCKETS, (bucket + 1) * count // BUCKETS)
        finite = [index for index in indices if math.isfinite(points[index][1])]
        if finite:
            kept |= {min(finite, key=lambda index: points[index][1]), max(finite, key=lambda index: points[index][1])}
        if len(finite) < len(indices):
            kept.add(next(index for index in indices if not math.isfinite(points[index][1])))
    return [points[index] for index in sorted(kept)]


def evenly(items: Sequence[int], most: int) -> list[int]:
    """At most `most` of `items`, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(index * (len(items) - 1) / (most - 1))] for index in range(most)]


def ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from `low` to `high`."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [round(index * step, 12) for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _head(run: Run) -> str:
    speed, seconds = run.images_per_second, run.newest.get("seconds")
    facts = {
        "task": run.task,
        "images seen": f"{run.images_seen:,}" + (f" of {run.total_images:,}" if run.total_images else ""),
        "images/s": f"{speed:.4g}" if speed else None,
        "training time": age(timedelta(seconds=seconds)) if seconds else None,
        f"{run.state} since": _time(run.time),
    }
    told = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items() if v)
    bar = f'<progress max="{run.total_images}" value="{run.images_seen}"></progress>' if run.total_images else ""
    reason = f'<p class="reason">{escape(run.reason)}</p>' if run.reason else ""
    state = f'<span class="state {escape(run.state)}">{escape(run.state)}</span>'
    return f"<header><h1>{escape(run.name)} {state}</h1>{reason}{bar}<dl>{told}</dl></header>"


def _samples(run: Run) -> str:
    chosen = evenly(run.samples, SAMPLES)
    pictures = [picture for images in chosen if (picture := _picture(run.sample(images), images, len(chosen)))]
    if not pictures:
        return ""
    last = len(pictures) - 1
    slider = (
        '<label for="when">Drag, or use the arrow keys</label>'
        f'<input type="range" id="when" min="0" max="{last}" value="{last}">'
    )
    return (
        '<section id="samples"><h2>Samples</h2>'
        f'<div class="slider"><output id="caption" for="when">{run.samples[-1]:,} images</output>'
        f"{slider if last else ''}</div>"
        + "\n".join(picture.replace("<img", "<img hidden", index != last) for index, picture in enumerate(pictures))
        + "</section>"
    )


def _picture(content: bytes, images: int, count: int) -> str:
    """The grid as an `img`; a JPEG of less size where the PNG is more than its share. Empty if it is damaged."""
    kind, most = "png", SAMPLE_BYTES // count
    try:
        grid = Pillow.open(io.BytesIO(content))
        width, height = grid.size
        if len(content) > most:
            kind, small = "jpeg", grid.convert("RGB")
            while len(content := _jpeg(small)) > most:
                small = small.reduce(2)
    except OSError:
        return ""
    data = base64.b64encode(content).decode()
    caption = f"{images:,} images"
    return (
        f'<img width="{width}" height="{height}" {"class=pixels " if width < 400 else ""}alt="Samples after {caption}" '
        f'data-caption="{caption}" src="data:image/{kind};base64,{data}">'
    )


def _jpeg(image: Pillow.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()


def _charts(run: Run) -> str:
    if not run.metrics:
        return ""
    losses = _curves(run, lambda name: name not in _NO_LOSS and not _BELIEF.match(name))
    beliefs = _curves(run, lambda name: bool(_BELIEF.match(name)))
    speed = _curves(run, lambda name: name == "images/s")
    waits = {
        name: [(x, 100 * y) for x, y in points] for name, points in _curves(run, lambda name: name == "data wait").items()
    }
    charts = (
        _chart("Losses", "means of each interval", losses),
        _chart("The game", "how real the discriminator holds real and made images to be", beliefs, 0.5, (0, 1)),
        _chart("Speed", "images per second, of all workers", speed, None, (0, 1)),
        _chart("Data wait", "percent of the time in which training waited for images", waits, None, (0, 1)),
    )
    return f'<section id="curves"><h2>Curves</h2><div class="charts">{"".join(charts)}</div></section>'


def _curves(run: Run, wanted: Callable[[str], bool]) -> dict[str, Sequence[Point]]:
    names = dict.fromkeys(name for line in run.metrics for name in line if wanted(name))
    return {name: thin([(line["images"], line[name]) for line in run.metrics if name in line]) for name in names}


def _events(run: Run) -> str:
    rows = [
        (_time(str(event.get("time", ""))), f"{event.get('images', 0):,}", str(event["event"]))
        for event in run.events[-EVENTS:]
    ]
    left_out = len(run.events) - len(rows)
    note = f"<p>{left_out:,} earlier ones are in events.jsonl.</p>" if left_out else ""
    return f"<section><h2>Events</h2>{note}{_table(('time (UTC)', 'images', 'event'), rows)}</section>" if rows else ""


def _config(run: Run) -> str:
    leaves = flatten(run.config)
    if not leaves:
        return ""
    usual = defaults(run.config)
    chosen = {key: value for key, value in leaves.items() if key not in usual or usual[key] != value}
    rows = [(key, shown(value), shown(usual[key]) if key in usual else "") for key, value in chosen.items()]
    others = [(key, shown(value)) for key, value in leaves.items() if key not in chosen]
    rest = f"<details><summary>{len(others)} keys at their defaults</summary>{_table(('key', 'value'), others)}</details>"
    return f"<section><h2>Config</h2>{_table(('key', 'value', 'default'), rows)}{rest if others else ''}</section>"


def _environment(run: Run) -> str:
    rows = [(key, shown(value)) for key, value in run.environment.items()]
    return f"<section><h2>Environment</h2>{_table(('what', 'version'), rows)}</section>" if rows else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'


def _time(moment: datetime | str | None) -> str:
    """`moment`, or what it is read from, in UTC; words that are no time stay as they are."""
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            return str(moment)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S") if moment else ""
