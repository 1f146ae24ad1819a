"""Writes a run's files in a background thread, so that training does not wait for the storage."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from zorse_common.storage import Storage

P = ParamSpec("P")
T = TypeVar("T")


class BackgroundWriter:
    """Writes files in one thread, in the order of submission. Only the newest pending content of a name is written."""

    def __init__(self, storage: Storage, warn: Callable[[str], None]) -> None:
        """`warn` is called with one line when a file cannot be written. Training continues."""
        self._storage, self._warn = storage, warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="files")
        self._pending: dict[str, bytes] = {}
        self._failing = False

    def write(self, name: str, content: bytes) -> None:
        """Queue `content` as the file `name`. It replaces content that is still pending for that name."""
        self._pending[name] = content
        self.submit(self._write, name)

    def submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue other work; it runs after all pending work."""
        return self._thread.submit(work, *args, **kwargs)

    def finish(self) -> None:
        """Wait until nothing is pending."""
        self.submit(lambda: None).result()

    def _write(self, name: str) -> None:
        content = self._pending.pop(name, None)
        if content is None:
            return
        try:
            self._storage.write(name, content)
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._warn(f"{self._storage.uri}/{name} cannot be written: {error}")
            self._failing = True
