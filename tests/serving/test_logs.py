"""The server's log, and how it reaches standard error."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.errors import InternalError
from serving.logs import REQUEST_ID, JsonFormatter, LogCopier, append_line, copied_log, harmless, log_file, write_log


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """Yield the log of this process, on behalf of version 3 of `digits`."""
    before = {name: logging.getLogger(name).level for name in ("serving", "asyncio")}
    write_log(tmp_path, "digits", 3)
    yield log_file(tmp_path)
    for name, level in before.items():
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def fail() -> None:
    try:
        try:
            raise ValueError("a secret\nof the graph")
        except ValueError as error:
            raise InternalError from error
    except InternalError:
        logging.getLogger("serving").exception("%s %s failed", "POST", "/v2/models/digits/infer")


def test_warning_is_a_line_of_its_own_without_a_logger(tmp_path: Path) -> None:
    append_line(tmp_path, "a process\nhas died")
    append_line(tmp_path, "another")
    first, second = lines(log_file(tmp_path))
    assert first.keys() == {"time", "level", "message"}
    assert (first["level"], first["message"], second["message"]) == ("warning", "a process\nhas died", "another")


def test_log_has_a_line_of_json_for_a_failure_with_its_cause_and_trace(written: Path) -> None:
    token = REQUEST_ID.set("abc")
    fail()
    REQUEST_ID.reset(token)
    (line,) = lines(written)
    time, trace = line.pop("time"), line.pop("trace")
    assert line == {
        "level": "error",
        "model": "digits",
        "version": 3,
        "request_id": "abc",
        "message": "POST /v2/models/digits/infer failed",
        "error": "ValueError: a secret\nof the graph",
    }
    assert time.endswith("+00:00")
    assert "in fail" in trace
    assert "InternalError" in trace


def test_log_has_the_fields_of_a_record_and_no_empty_keys(written: Path) -> None:
    logging.getLogger("serving.access").info("GET /", extra={"fields": {"route": "infer", "status": 200}})
    (line,) = lines(written)
    assert (line["route"], line["status"], "trace" in line, "request_id" in line) == ("infer", 200, False, False)


def test_log_lines_are_ascii_whatever_the_request_has() -> None:
    text = "\ud800 \x1b[31m \x9b é\nnew line"
    # Formatted here and not logged: pytest would capture the text, and cannot pass it on between processes.
    line = JsonFormatter("digits", 3).format(logging.LogRecord("serving", logging.ERROR, "", 1, text, (), None))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["message"] == text


@pytest.mark.parametrize(
    ("stated", "id_"),
    [("abc-1.2:3/4+5=6@7_8", "abc-1.2:3/4+5=6@7_8"), ('a"b\\c d\x1bé', "a?b?c?d??"), ("x" * 200, "x" * 128)],
)
def test_ids_of_clients_are_made_harmless(stated: str, id_: str) -> None:
    assert harmless(stated) == id_


def test_copied_log_copies_whole_lines_of_all_processes(tmp_path: Path) -> None:
    out = io.BytesIO()
    with copied_log(tmp_path, out):
        with log_file(tmp_path).open("ab") as one, log_file(tmp_path).open("ab") as other:
            one.write(b"first\n")
            one.flush()
            other.write(b"second\nthi")
        with log_file(tmp_path).open("ab") as one:
            one.write(b"rd\nunfinished")
        assert log_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert out.getvalue() == b"first\nsecond\nthird\n"


def test_log_copier_renames_a_large_log_and_loses_no_line(tmp_path: Path) -> None:
    out = io.BytesIO()
    copier = LogCopier(log_file(tmp_path), out, max_bytes=100)
    for start in range(0, 60, 10):
        write_lines(tmp_path, range(start, start + 10))
        copier.copy()
    copier.copy()
    copier.close()
    assert [int(line) for line in out.getvalue().splitlines()] == list(range(60))
    assert len(log_file(tmp_path).with_suffix(".old.jsonl").read_text().splitlines()) == 20


def write_lines(folder: Path, numbers: range) -> None:
    with log_file(folder).open("a", encoding="ascii") as file:
        file.writelines(f"{number:08}\n" for number in numbers)


def test_copied_log_survives_a_terminal_that_is_gone(tmp_path: Path) -> None:
    class Gone(io.BytesIO):
        def write(self, text: Any) -> int:
            raise BrokenPipeError

    with copied_log(tmp_path, Gone()):
        write_lines(tmp_path, range(3))


def test_json_formatter_of_the_gateway_names_no_model() -> None:
    record = logging.LogRecord("serving", logging.INFO, "", 0, "hello", (), None)
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "message"}
