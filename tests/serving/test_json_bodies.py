"""JSON bodies: long ones are read outside the event loop."""

from __future__ import annotations

import json
import threading
from typing import Self

from pydantic import PrivateAttr, model_validator

from export.feeds import Feeds
from export.interface import Interface
from serving.client import Client
from serving.codec import JSON, File
from serving.feeds import latents
from serving.verb import VERBS, Outputs, Verb, VerbRequest
from tests.serving.apps import transport
from tests.serving.tiny import LATENT_DIM


class ThreadRequest(VerbRequest):
    """State whether the keys were read in the thread of the event loop."""

    text: str = ""
    _threads: list[int] = PrivateAttr(default_factory=list)

    @model_validator(mode="after")
    def _note_thread(self) -> Self:
        self._threads.append(threading.get_ident())
        return self


def plan_thread(interface: Interface, request: ThreadRequest) -> list[Feeds]:
    request._threads.append(threading.get_ident())
    return [{"latent": latents(0, [0], LATENT_DIM)}]


def render_thread(interface: Interface, outputs: Outputs, request: ThreadRequest) -> File:
    read, planned = request._threads
    return File(json.dumps(read == planned).encode(), JSON)


VERBS.register("thread", Verb(ThreadRequest, plan_thread, render_thread, media_types=(JSON,)))


def test_long_json_is_read_in_a_thread() -> None:
    with Client("http://server", transport=transport()) as client:
        assert client.call("thread", "digits", text="short") is True
        assert client.call("thread", "digits", text="long" * 10_000) is False
