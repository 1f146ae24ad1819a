"""Keeps the running models those that should run while a server runs, in a thread: see `serving.reconcile`."""

from __future__ import annotations

import math
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Protocol

from serving import artifacts
from serving.applications import Applications
from serving.artifacts import Artifact, Listing, Published
from serving.changes import Change
from serving.config import GatewaySettings, ModelSettings, ServerSettings
from serving.errors import InternalError, ServingError
from serving.logs import append_line
from serving.metrics import UpdateCounts
from serving.reconcile import Reconciler
from serving.reports import Report
from serving.served import Served
from zorse_common.errors import one_line

_STOP_SECONDS = 30.0
"""How long an update that has begun may take to see that the server stops."""
_WAIT_SECONDS = 10.0
"""How long the gateway is asked for changes at a time."""
_PAUSE_SECONDS = 0.2
"""A pause before the gateway is asked again that did not answer."""


class Note(Protocol):
    """Writes an event: its name, the model, and fields."""

    def __call__(self, event: str, model: str | None, **fields: object) -> None: ...


@contextmanager
def following(
    settings: ServerSettings,
    example: ModelSettings,
    found: Mapping[str, tuple[Published, Artifact]],
    gateway: GatewaySettings,
) -> Iterator[None]:
    """While the block runs, make the changes that requests ask for, and follow the repository if `settings` say so.

    `found` are the models of the start, and `gateway` says which of them run. The other models get the settings of
    `example`.
    """
    # Ray reads its environment when it is imported.
    from serving.gateway import Gateway

    folder, processes = gateway.folder, Gateway()
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
        processes.tell(state)
        processes.report(Report("following", platform.node(), counts.numbers()))

    def note(event: str, model: str | None, **fields: object) -> None:
        level = "INFO" if event in ("update_started", "update_done", "model_stopped") else "WARNING"
        append_line(folder, event.replace("_", " "), level, event=event, model=model, **fields)
        if model is not None and event in ("update_done", "update_refused"):
            counts.add(model, event.removeprefix("update_"))

    served = {model.name for model in gateway.models}
    versions = {name: version for name, (version, _) in found.items()}
    refused = {
        version: gateway.unavailable.get(version.key, "it does not start")
        for name, version in versions.items()
        if name not in served
    }
    failed = {version.key for version in refused}
    skipped = {key: reason for key, reason in gateway.unavailable.items() if key not in failed}
    reconciler = Reconciler(
        Listing(versions, skipped),
        {name: one for name, one in found.items() if name in served},
        refused,
        partial(artifacts.find, settings.repository, settings.alias),
        artifacts.load,
        Applications(settings_of, stop),
        tell,
        note,
    )
    work = partial(keep, reconciler, processes, settings.follow_s or math.inf, stop, note)
    thread = threading.Thread(target=work, name="following", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        # It may have died, and then nobody waits for an answer.
        with suppress(Exception):
            processes.close()
        thread.join(_STOP_SECONDS)


class Asking(Protocol):
    """Where clients ask for changes of the running models. Any call may fail."""

    def take(self, seconds: float) -> Change | None:
        """Return the next change, or None if there is none within `seconds`."""

    def answer(self, key: str, error: ServingError | None) -> None:
        """Answer the request `key`: its change is made, or failed with `error`."""


def keep(reconciler: Reconciler, asking: Asking, interval: float, stop: threading.Event, note: Note) -> None:
    """Until `stop`, make the changes that `asking` has, and follow the repository every `interval` seconds."""
    next_look, is_reached = time.monotonic() + interval, True
    while not stop.is_set():
        try:
            change = asking.take(max(0.0, min(_WAIT_SECONDS, next_look - time.monotonic())))
            is_reached = True
            if change is not None:
                asking.answer(change.key, _outcome(reconciler, change, note))
        except Exception as error:  # noqa: BLE001 - the gateway has died, and with it those who ask
            if is_reached and not stop.is_set():
                note("gateway_unreachable", None, reason=one_line(error))
            is_reached = False
            stop.wait(_PAUSE_SECONDS)
        if time.monotonic() >= next_look and not stop.is_set():
            try:
                reconciler.follow()
            except Exception as error:  # noqa: BLE001 - Ray raises all kinds while its controller restarts
                note("look_failed", None, reason=one_line(error))
            next_look = time.monotonic() + interval


def _outcome(reconciler: Reconciler, change: Change, note: Note) -> ServingError | None:
    """Make a change, and return the error with which it failed, if it did."""
    try:
        (reconciler.load if change.action == "load" else reconciler.unload)(change.model)
    except ServingError as error:
        return error
    except Exception as error:  # noqa: BLE001 - Ray raises all kinds while its controller restarts
        note("change_failed", change.model, action=change.action, reason=one_line(error))
        return InternalError()
    return None
