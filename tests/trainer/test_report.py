"""The report: one complete page for a run in any state."""

from __future__ import annotations

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser.runs import line, png, write_lines, write_run
from trainer.report.charts import ticks
from trainer.report.page import write_report
from trainer.report.samples import evenly
from zorse_common.storage import Storage

HOSTILE = "</title><script>alert('&amp;')</script><img src=\"x\">"


class _Page(HTMLParser):
    """A parsed page: its elements and texts. Parsing checks that every element is closed."""

    VOID = frozenset({"meta", "img", "input", "path"})

    def __init__(self, folder: Path) -> None:
        super().__init__()
        write_report(Storage(folder))
        self.source = (folder / "report.html").read_text()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def curves(self) -> list[str]:
        return [path["d"] or "" for path in self.all("path") if (path.get("class") or "").startswith("curve")]


def test_page_shows_the_run(tmp_path: Path) -> None:
    page = _Page(write_run(tmp_path / "toy", state="preempted", reason="stopped by a signal"))
    titles = [page.words[index] for index, word in enumerate(page.words) if word in ("Samples", "Events", "Config")]
    assert titles == ["Samples", "Events", "Config"]
    for words in (
        "toy",
        "preempted",
        "stopped by a signal",
        "1,000 of 1,000",
        "undecided",
        "D(fake)",
        "data wait",
        "images/s",
    ):
        assert words in page.words
    row = page.words.index("task.generator.latent_dim")
    assert page.words[row : row + 3] == ["task.generator.latent_dim", "8", "100"]
    event = page.words.index("training from image 0 on with 2 workers")
    assert page.words[event - 2 : event] == ["2026-01-02 03:04:05", "8"]
    assert page.words[page.words.index("torch") + 1] == "2.13.0"
    # Two losses, two of realness, speed and two waits; each as logged and as means.
    assert len(page.curves()) == 14


def test_page_needs_no_other_file(tmp_path: Path) -> None:
    page = _Page(write_run(tmp_path / "toy"))
    assert not re.search(r"https?:|//|url\(|@import|<link|<iframe", re.sub(r"base64,[\w+/=]+", "", page.source))
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.all("img"))
    policy = page.all("meta")[-1]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert (policy["content"] or "").startswith("default-src 'none'")


def test_page_escapes_texts_of_the_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy&<b>", state=HOSTILE, reason=HOSTILE, environment={HOSTILE: HOSTILE})
    (folder / "events.jsonl").write_text(json.dumps({"images": 1, "event": HOSTILE}) + "\n")
    (folder / "config.yaml").write_text(json.dumps({"run": {HOSTILE: HOSTILE}}))
    write_lines(folder, [line(8, 0.1) | {"figures": {HOSTILE: 1.0, "surrogate \ud800": 2.0}}])
    page = _Page(folder)
    assert len(page.all("script")) == 1
    assert all("data-caption" in image for image in page.all("img"))
    # State, reason, environment twice, event, config and the figure.
    assert len([word for word in page.words if HOSTILE in word]) >= 7
    assert "toy&<b>" in page.words


def test_page_of_an_empty_folder(tmp_path: Path) -> None:
    page = _Page(tmp_path)
    assert "unknown" in page.words
    assert not page.all("section")


@pytest.mark.parametrize("missing", ["config.yaml", "run.json", "metrics", "events.jsonl", "samples"])
def test_page_leaves_out_the_section_of_a_missing_file(tmp_path: Path, missing: str) -> None:
    folder = write_run(tmp_path / "toy")
    whole = len(_Page(folder).all("section"))
    (folder / missing).rename(tmp_path / missing)
    assert len(_Page(folder).all("section")) == whole - 1


def test_curve_breaks_at_numbers_that_are_not_finite_and_marks_them(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy")
    write_lines(
        folder,
        [
            {"images": x, "figures": {"G loss": math.nan if x == 30 else math.inf if x == 50 else x}}
            for x in range(10, 80, 10)
        ],
    )
    faint, bold = _Page(folder).curves()
    assert re.sub(r"[\d.,]+", "", faint) == "MLhMhMLh"
    assert bold.count("l6,6m-6,0l6,-6") == 2


@pytest.mark.parametrize("values", [[math.nan], [math.nan, math.inf], [3.0], [0.0, 0.0], [-2.0, -2.0], [1e30, 1e30]])
def test_charts_can_draw_any_figures(tmp_path: Path, values: list[float]) -> None:
    folder = write_run(tmp_path / "toy")
    write_lines(
        folder,
        [
            {"images": 8 * (x + 1), "figures": {"G loss": value}, "realness": {"D": [value, 0.5]}}
            for x, value in enumerate(values)
        ],
    )
    page = _Page(folder)
    numbers = [float(number) for path in page.all("path") for number in re.findall(r"[\d.]+", path["d"] or "")]
    assert numbers
    assert max(numbers) <= 640
    assert not re.search("nan|inf", " ".join(path["d"] or "" for path in page.all("path")))


def test_page_of_a_long_run_is_small_and_shows_spikes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy")
    lines = [line(8 * (number + 1), number / 30_000) for number in range(30_000)]
    lines[12_345]["figures"]["G loss"] = 99.0
    write_lines(folder, lines)
    page = _Page(folder)
    assert len(page.source) < 500_000
    assert any(f"{48 + 584 * 12_346 / 30_000:.1f}," in curve for curve in page.curves())
    assert "100" in page.words


def test_page_shows_the_newest_events(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy")
    events = [{"time": "2026-01-02T03:04:05+00:00", "images": n, "event": f"event {n}"} for n in range(1000)]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    words = _Page(folder).words
    assert "700 earlier ones are in events.jsonl." in words
    assert [word for word in words if word.startswith("event ")] == [f"event {n}" for n in range(700, 1000)]


def test_page_shows_some_of_many_grids(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy", grids=0)
    for images in range(0, 1000, 10):
        (folder / "samples" / f"{images:010d}.png").write_bytes(png(100))
    (folder / "samples" / "0000000990.png").write_bytes(b"no picture")
    page = _Page(folder)
    captions = [image["data-caption"] for image in page.all("img")]
    assert len(captions) == 39
    assert (captions[0], captions[-1]) == ("0 images", "960 images")
    assert ["hidden" in image for image in page.all("img")] == [True] * 38 + [False]
    assert page.all("input") == [{"type": "range", "id": "when", "min": "0", "max": "38", "value": "38"}]
    assert "960 images" in page.words


def test_page_with_one_grid_has_no_slider(tmp_path: Path) -> None:
    page = _Page(write_run(tmp_path / "toy", grids=1))
    assert len(page.all("img")) == 1
    assert page.all("input") == []


def test_page_embeds_large_grids_as_jpeg(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy", grids=0)
    noise = np.random.default_rng(0).integers(0, 256, (2100, 2100, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG", compress_level=1)
    for images in (0, 8, 16):
        (folder / "samples" / f"{images:010d}.png").write_bytes(stream.getvalue())
    page = _Page(folder)
    assert 3 * len(stream.getvalue()) > 30_000_000
    assert len(page.source) < 20_000_000
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert {(image["width"], image["height"]) for image in page.all("img")} == {("2100", "2100")}


def test_evenly_keeps_both_ends() -> None:
    assert evenly([1, 2, 3], 3) == [1, 2, 3]
    assert evenly(range(101), 5) == [0, 25, 50, 75, 100]
    assert evenly([], 5) == []


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0, 2000, [0, 500, 1000, 1500, 2000]),
        (-0.3, 0.3, [-0.2, 0, 0.2]),
        (3e-9, 9e-9, [4e-9, 6e-9, 8e-9]),
        (0, 25e6, [0, 5e6, 10e6, 15e6, 20e6, 25e6]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)
