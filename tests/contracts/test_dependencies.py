"""Imports, the dependencies in pyproject.toml and the table in docs/dependencies.md agree."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PACKAGES = ("zorse_common", "trainer", "export", "serving", "zorse")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Other packages import these: torch for extensions and export. One of two onnxruntimes is installed.
NOT_IMPORTED = {"setuptools", "onnxscript", "onnxruntime", "onnxruntime-gpu"}


def _names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(requirement).name) for requirement in requirements}


def _imports(package: str) -> Iterator[str]:
    """Yield the top-level modules that the package's files import, also inside functions."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name.split(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module.split(".")[0]


def test_imports_and_declared_dependencies_agree() -> None:
    modules = {module for package in PACKAGES for module in _imports(package)} - sys.stdlib_module_names - {*PACKAGES}
    distributions = packages_distributions()
    imported = {module: {canonicalize_name(name) for name in distributions.get(module, [])} for module in modules}
    declared = _names(PROJECT["dependencies"])
    assert sorted(module for module, names in imported.items() if not names & declared) == []
    assert sorted(declared - NOT_IMPORTED - {name for names in imported.values() for name in names}) == []


def test_dependencies_are_explained_and_pinned() -> None:
    declared = _names(PROJECT["dependencies"]) | _names(PROJECT["optional-dependencies"]["dev"])
    explained = re.findall(r"^\| ([a-z][\w-]*) \|", (ROOT / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    assert sorted(name for name in explained if name != "package") == sorted(declared)
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    # constraints.txt is for x86-64 Linux, which gets onnxruntime-gpu. Other machines get onnxruntime.
    assert sorted(declared - {canonicalize_name(pin) for pin in pins}) == ["onnxruntime"]
