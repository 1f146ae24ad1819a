"""Which models are ready, kept up to date in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_WAITING_SECONDS, _READY_SECONDS = 0.25, 4.0
"""Seconds between two looks while a model is not ready, and while all of them are."""


class Readiness:
    """The names of the models that are not ready, as `look` last returned them; at first all of `names`.

    A thread looks again and again, so that a health check costs no call to Ray. If `look` fails, the names stay.
    """

    def __init__(self, names: list[str], look: Callable[[list[str]], list[str]]) -> None:
        self._names = names
        self._look = look
        self.not_ready = names
        threading.Thread(target=self._run, name="readiness", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_WAITING_SECONDS if self.not_ready else _READY_SECONDS)
            try:
                self.not_ready = self._look(self._names)
            except Exception:  # noqa: BLE001 - Ray raises all kinds while its controller restarts
                continue
