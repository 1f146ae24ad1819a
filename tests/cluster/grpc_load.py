"""gRPC clients that send requests to a server without pause, and what they were answered."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class GrpcAnswer:
    """What one request got: when it was sent (monotonic, seconds), the code, and the text of an error."""

    sent: float
    code: str
    text: str

    @property
    def is_refused(self) -> bool:
        """Whether the request never reached the server."""
        return self.code == "UNAVAILABLE" and "failed to connect" in self.text


@dataclass
class GrpcLoad:
    """`clients` with a connection each that send the same inference request again and again."""

    target: str
    request: bytes
    clients: int = 8
    answers: list[GrpcAnswer] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _arrival: threading.Condition = field(default_factory=threading.Condition)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send requests while the block runs, and wait for the last answers at its end."""
        threads = [threading.Thread(target=self._send) for _ in range(self.clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def wait_for(self, count: int) -> None:
        """Wait until `count` more requests have been answered."""
        target = len(self.answers) + count
        with self._arrival:
            assert self._arrival.wait_for(lambda: len(self.answers) >= target, 120)

    def summary(self) -> str:
        """Return the numbers of answers by what they are."""
        return ", ".join(f"{n} x {kind}" for kind, n in Counter((a.code, a.text[:80]) for a in self.answers).items())

    def _send(self) -> None:
        # Channels of one process otherwise share a connection.
        with grpc.insecure_channel(self.target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            infer = channel.unary_unary(INFER)
            while not self._ended.is_set():
                sent, code, text = time.monotonic(), "OK", ""
                try:
                    infer(self.request, timeout=60)
                except grpc.RpcError as error:
                    code, text = error.code().name, error.details()
                answer = GrpcAnswer(sent, code, text)
                with self._arrival:
                    self.answers.append(answer)
                    self._arrival.notify_all()
                if answer.is_refused:
                    self._ended.wait(0.05)
