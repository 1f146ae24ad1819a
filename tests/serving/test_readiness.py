"""The readiness of a server's models, which a thread keeps up to date."""

from __future__ import annotations

import queue

from serving.readiness import Readiness


def test_readiness_follows_its_source_and_outlives_its_failures() -> None:
    answers: queue.SimpleQueue[list[str] | Exception] = queue.SimpleQueue()
    looks: queue.SimpleQueue[list[str]] = queue.SimpleQueue()

    def look(names: list[str]) -> list[str]:
        looks.put(names)
        answer = answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    readiness = Readiness(["a", "b"], look)
    assert readiness.not_ready == ["a", "b"]
    assert looks.get() == ["a", "b"]
    answers.put(["b"])
    looks.get()
    assert readiness.not_ready == ["b"]
    answers.put(RuntimeError("the controller restarts"))
    looks.get()
    assert readiness.not_ready == ["b"]
