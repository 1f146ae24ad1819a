"""Follows a repository while a server runs: looks again and again, in a thread."""

from __future__ import annotations

import platform
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from serving import artifacts
from serving.applications import Applications
from serving.artifacts import Artifact, Published
from serving.config import GatewaySettings, ModelSettings, ServerSettings
from serving.logs import append_line
from serving.metrics import UpdateCounts
from serving.reconcile import Reconciler
from serving.reports import Report
from serving.served import Served
from zorse_common.errors import one_line

_STOP_SECONDS = 30.0
"""How long an update that has begun may take to see that the server stops."""


@contextmanager
def following(
    settings: ServerSettings,
    example: ModelSettings,
    found: Mapping[str, tuple[Published, Artifact]],
    gateway: GatewaySettings,
) -> Iterator[None]:
    """While the block runs, make the models those of the repository, if `settings` say so.

    `found` are the models of the start, and `gateway` says which of them run. The other models get the settings of
    `example`.
    """
    folder, interval = gateway.folder, settings.follow_s
    if interval is None:
        yield
        return
    stop, counts = threading.Event(), UpdateCounts(folder)

    def settings_of(artifact: Artifact) -> ModelSettings:
        place: dict[str, str | None] = {"artifact": str(artifact.path.resolve())}
        if folder is None:
            place = {"artifact": artifact.uri, "digest": artifact.digest}
        return example.model_copy(update={"name": artifact.manifest.name, "partner": None, **place})

    def tell(state: Served) -> None:
        if folder is not None:
            state.write(folder)
            return
        # Imported here: Ray reads the variables of its environment when it is imported, and they are not set yet.
        from serving.gateway import Gateway

        processes = Gateway()
        processes.tell(state)
        processes.report(Report("following", platform.node(), counts.numbers()))

    def note(event: str, model: str | None, **fields: object) -> None:
        level = "INFO" if event in ("update_started", "update_done", "model_stopped") else "WARNING"
        append_line(folder, event.replace("_", " "), level, event=event, model=model, **fields)
        if model is not None and event in ("update_done", "update_refused"):
            counts.add(model, event.removeprefix("update_"))

    served = {model.name for model in gateway.models}
    reasons = {key.partition("/")[0]: reason for key, reason in gateway.unavailable.items()}
    reconciler = Reconciler(
        {name: one for name, one in found.items() if name in served},
        {name: (one[0], reasons.get(name, "it does not start")) for name, one in found.items() if name not in served},
        partial(artifacts.find, settings.repository, settings.alias),
        artifacts.load,
        Applications(settings_of, stop),
        tell,
        note,
    )

    def look_again() -> None:
        while not stop.wait(interval):
            try:
                reconciler.step()
            except Exception as error:  # noqa: BLE001 - Ray raises all kinds while its controller restarts
                note("look_failed", None, reason=one_line(error))

    thread = threading.Thread(target=look_again, name="following", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_STOP_SECONDS)
