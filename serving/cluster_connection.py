"""Connects this process to a Ray cluster that runs already, or keeps its handlers while it starts one."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from serving.errors import ServingError
from zorse_common.errors import first_sentence


def connect(address: str, error: type[ServingError], **options: Any) -> None:
    """Connect to the cluster at `address`, "auto" or host:port. `options` are further ones of `ray.init`.

    Raises:
        ServingError: of the class `error`, as no cluster answers at the address.
    """
    import ray

    try:
        if ":" in address and not answers(address, 5.0):
            raise error("nothing listens there")
        with kept_handlers():
            ray.init(address, log_to_driver=False, logging_level="ERROR", **options)
    except Exception as caught:
        raise error(
            f"no Ray cluster answers at {address} ({first_sentence(caught)}): check --address, RAY_ADDRESS and zorse "
            "doctor"
        ) from caught


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Restore the handlers of signals after the block. Ray's own, which it sets when it starts, end the process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


def answers(address: str, seconds: float = 2.0) -> bool:
    """Return whether something listens at `address`, host:port, within `seconds`."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except OSError:
        return False
    return True
