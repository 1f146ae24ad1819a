"""The server's log: one JSON object a line, appended by all of its processes to one file in the server's folder."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import IO, Any

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
"""The id of the request that is being answered, as the client stated it."""
_LOGGERS = ("serving", "asyncio")
_NO_ID = re.compile(r"[^A-Za-z0-9._:/+=@-]")
_MAX_BYTES = 64 * 2**20
_POLL_SECONDS = 0.2


def harmless(stated: str) -> str:
    """Return the id that a client stated as it may be written: at most 128 characters, others than of ids as `?`."""
    return _NO_ID.sub("?", stated[:128])


def log_file(folder: str | Path) -> Path:
    """Return the log of the server with this folder."""
    return Path(folder) / "log.jsonl"


def write_log(folder: str | Path | None, model: str | None = None, version: int | None = None) -> None:
    """Have this process append what it logs to the log of the server with this folder, on behalf of a model.

    Without a folder it goes to standard error, which Ray keeps in a file of the process.
    """
    handler: logging.Handler = logging.StreamHandler()
    if folder is not None:
        # The file is opened anew when it was renamed, as `LogCopier` does when it has become large.
        handler = WatchedFileHandler(log_file(folder), encoding="utf-8", delay=True)
    handler.setFormatter(JsonFormatter(model, version))
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger("serving").setLevel(logging.INFO)


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON: time, level, model, version, request_id, message, error and trace.

    What the record has in `fields` is added. Keys without a value are left out.
    """

    def __init__(self, model: str | None = None, version: int | None = None) -> None:
        super().__init__()
        self._model = {"model": model, "version": version}

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without its end."""
        error = record.exc_info[1] if record.exc_info else None
        stated = REQUEST_ID.get()
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            **self._model,
            "request_id": None if stated is None else harmless(stated),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if error is not None:
            # The cause of an internal error says more than the error, which is for clients.
            line["error"] = "".join(traceback.format_exception_only(error.__cause__ or error)).strip()
            line["trace"] = "".join(traceback.format_exception(error))
        return json.dumps({key: value for key, value in line.items() if value is not None})


def append_line(folder: str | Path | None, message: str, level: str = "WARNING", **fields: Any) -> None:
    """Append a line to the log of the server with this folder, from a process that has no logger of its own for it.

    Without a folder the line goes to standard error.
    """
    record = logging.makeLogRecord({"msg": message, "levelname": level, "fields": fields})
    line = JsonFormatter().format(record) + "\n"
    if folder is None:
        sys.stderr.write(line)
        return
    with log_file(folder).open("a", encoding="utf-8") as file:
        file.write(line)


@contextlib.contextmanager
def copied_log(folder: str | Path, out: IO[bytes] | None = None) -> Iterator[None]:
    """Copy the log's lines to `out` (by default standard error) while the block runs, in one thread."""
    stopped = threading.Event()
    copier = LogCopier(log_file(folder), sys.stderr.buffer if out is None else out)

    def copy() -> None:
        while not stopped.wait(_POLL_SECONDS):
            copier.copy()

    log_file(folder).touch(mode=0o600)
    thread = threading.Thread(target=copy, name="log", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        copier.copy()
        copier.close()


class LogCopier:
    """Copies the lines of a growing log. A log of more than `max_bytes` is renamed, and replaces the one before."""

    def __init__(self, path: Path, out: IO[bytes], max_bytes: int = _MAX_BYTES) -> None:
        self._path, self._out, self._max_bytes = path, out, max_bytes
        self._file: IO[bytes] | None = None
        self._rest = b""
        self._is_renamed = False

    def copy(self) -> None:
        """Copy the lines that have been written since."""
        if self._file is None:
            self._file = self._path.open("rb")
        new = self._file.read()
        *lines, self._rest = (self._rest + new).split(b"\n")
        if lines:
            # A terminal that is gone must not stop the server.
            with contextlib.suppress(OSError, ValueError):
                self._out.write(b"\n".join([*lines, b""]))
                self._out.flush()
        if self._is_renamed and not new and self._path.exists():
            # All processes write to the new file now.
            self.close()
            self.copy()
        elif not self._is_renamed and self._file is not None and self._file.tell() > self._max_bytes:
            self._path.rename(self._path.with_suffix(".old.jsonl"))
            self._is_renamed = True

    def close(self) -> None:
        """Close the log. The next `copy` begins a new one."""
        if self._file is not None:
            self._file.close()
        self._file, self._is_renamed = None, False
