"""The files, functions and classes that CONTRIBUTING.md names exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([a-z_]+(?:/\w+)*\.py):(\w+)`", TEXT)))
PATHS = sorted(set(re.findall(r"`((?:tests|trainer|export|serving|zorse|zorse_common|docs|configs)/[\w./]*)`", TEXT)))
SECTION = re.compile(r"^### (\w+)\n(.*?)(?=^##)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| (`[^|]+) \|", re.MULTILINE)
ROWS = [
    (package, path)
    for package, text in SECTION.findall(TEXT)
    for row in ROW.findall(text)
    for path in re.findall(r"`([^`]+)`", row)
]


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_contributing_names_existing_definitions(path: str, name: str) -> None:
    nodes = ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    assert name in defined


def test_contributing_names_existing_files() -> None:
    assert len(NAMED) > 30
    assert len(ROWS) > 30
    paths = [*PATHS, *(f"{package}/{path}" for package, path in ROWS)]
    assert [path for path in paths if not (ROOT / path).exists()] == []
