"""Registries, error messages and tables."""

from __future__ import annotations

import json

import pytest

from zorse_common.errors import ZorseError, first_sentence, nearest_hint, one_line, printable
from zorse_common.registry import Registry
from zorse_common.tables import print_json, print_table


def test_registry_finds_components_and_suggests_the_nearest_name() -> None:
    registry = Registry[int]("tests.common", "number", ZorseError)
    registry.register("three", 3)
    registry.register("seven", 7)
    assert (registry.names(), registry.find("three")) == (["seven", "three"], 3)
    with pytest.raises(ZorseError, match=r"^unknown number 'thre' \(did you mean three\?\); known: seven, three$"):
        registry.find("thre")
    with pytest.raises(TypeError, match="number 'three' is registered twice"):
        registry.register("three", 4)


def test_nearest_hint_suggests_near_names_only() -> None:
    assert nearest_hint("genrator", ["generator", "loss"]) == " (did you mean generator?)"
    assert nearest_hint("xyz", ["generator", "loss"]) == ""


def test_library_errors_become_one_line() -> None:
    assert one_line(OSError("two\nlines  <_io.BytesIO object at 0x7f>")) == "two lines"
    assert one_line(KeyError()) == first_sentence(KeyError()) == "KeyError"
    assert first_sentence(ValueError("First. Second.\n\nThird.")) == "First."
    assert printable("caf\udce9.png") == "caf\\xe9.png"


def test_table_in_a_pipe_has_one_line_per_row(capsys: pytest.CaptureFixture[str]) -> None:
    long = "x" * 200
    print_table(("name", "value"), [("a", long), ("bcdef", "two\nlines")])
    print_table(("name", "value"), [])
    assert capsys.readouterr().out == f"name   value\na      {long}\nbcdef  two lines\n\n"


def test_json_document_keeps_characters_and_null(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"größe": [1, None]})
    assert json.loads(capsys.readouterr().out) == {"größe": [1, None]}
