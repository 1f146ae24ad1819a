"""A run's page in a real browser, opened from its file."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.browser.runs import write_run
from trainer.report.page import write_report
from zorse_common.storage import Storage

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver, driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS) as chromium:
        yield chromium


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page(viewport={"width": 1200, "height": 900}) as page:
        yield page


def _open(page: Page, folder: Path) -> tuple[list[str], list[str]]:
    """Open the report of the run in `folder`. Return lists of the page's requests and errors, which grow later."""
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    write_report(Storage(folder))
    page.goto((folder / "report.html").as_uri())
    return requests, errors


def _grey(place: Locator, at: tuple[int, int]) -> int:
    """Return the grey level so many pixels right of and below the corner of the element."""
    return int(np.asarray(Image.open(io.BytesIO(place.screenshot())).convert("L"))[at[1], at[0]])


def test_slider_shows_another_grid(page: Page, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "toy")
    requests, errors = _open(page, folder)
    slider, caption, picture = page.locator("#when"), page.locator("#caption"), page.locator("#samples img:visible")
    assert (caption.inner_text(), picture.count(), _grey(picture, (200, 200))) == ("1,000 images", 1, 160)
    slider.press("Home")
    assert (caption.inner_text(), picture.count(), _grey(picture, (200, 200))) == ("0 images", 1, 0)
    slider.press("ArrowRight")
    assert (caption.inner_text(), picture.count(), _grey(picture, (200, 200))) == ("250 images", 1, 40)
    assert slider.get_attribute("aria-valuetext") == "250 images"
    slider.fill("3")
    assert (caption.inner_text(), picture.count(), _grey(picture, (200, 200))) == ("750 images", 1, 120)
    assert [url for url in requests if not url.startswith("data:")] == [(folder / "report.html").as_uri()]
    assert errors == []


def test_curves_are_drawn(page: Page, tmp_path: Path) -> None:
    _open(page, write_run(tmp_path / "toy"))
    charts = page.locator("#curves svg")
    assert charts.count() == 4
    for chart in charts.all():
        box = chart.bounding_box()
        assert box is not None
        assert box["width"] > 400
        assert box["height"] > 150
    curves = page.locator("#curves .curve:not(.faint)")
    boxes = [curve.bounding_box() for curve in curves.all()]
    assert [round(box["width"]) > 300 for box in boxes if box] == [True] * 7
    assert page.get_by_text("undecided").is_visible()
    colours = {curve.evaluate("curve => getComputedStyle(curve).stroke") for curve in curves.all()}
    assert "none" not in colours
    assert len(colours) == 2


def test_page_is_dark_if_the_reader_prefers_it(page: Page, tmp_path: Path) -> None:
    _open(page, write_run(tmp_path / "toy"))
    page.emulate_media(color_scheme="light")
    light = _grey(page.locator("body"), (3, 3))
    page.emulate_media(color_scheme="dark")
    dark = _grey(page.locator("body"), (3, 3))
    assert light > 230
    assert dark < 40


def test_page_fits_the_width_of_a_phone(page: Page, tmp_path: Path) -> None:
    page.set_viewport_size({"width": 390, "height": 800})
    _open(page, write_run(tmp_path / "a-run-whose-folder-has-quite-a-long-name-that-does-not-fit-in-one-line"))
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_page_of_a_run_that_failed_at_once_has_no_errors(page: Page, tmp_path: Path) -> None:
    _, errors = _open(page, tmp_path)
    assert page.get_by_text("unknown", exact=True).is_visible()
    assert page.locator("section").count() == 0
    assert errors == []
