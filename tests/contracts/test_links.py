"""Links of the documentation lead somewhere, and every page can be reached from the README."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
CODE = re.compile(r"```.*?```", re.DOTALL)


def links(page: Path) -> list[tuple[Path, str]]:
    """Return the files that a page links to, each with the heading that is meant, or ""."""
    targets = re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", page.read_text(encoding="utf-8")))
    parts = [target.partition("#") for target in targets if "://" not in target]
    return [((page.parent / path).resolve() if path else page, heading) for path, _, heading in parts]


def headings(page: Path) -> set[str]:
    """Return the headings of a page as GitHub writes them in links."""
    titles = re.findall(r"^#+ (.*)$", CODE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_to_files_and_headings() -> None:
    found = [(page, target, heading) for page in PAGES for target, heading in links(page)]
    assert len(found) > 50
    lost = [
        (page.name, target.name, heading)
        for page, target, heading in found
        if not target.exists() or (heading and heading not in headings(target))
    ]
    assert lost == []


def test_pages_can_be_reached_from_the_readme() -> None:
    reached, new = set[Path](), {ROOT / "README.md"}
    while new:
        reached |= new
        new = {target for page in new for target, _ in links(page) if target.suffix == ".md"} - reached
    assert sorted(page.name for page in (ROOT / "docs").glob("*.md") if page not in reached) == []
