"""The actor between the workers and the driver, without Ray."""

from __future__ import annotations

from trainer.errors import ConfigError, DataError
from trainer.progress_actor import ProgressActor, Update


def test_actor_gives_each_event_once_and_the_newest_figures() -> None:
    actor = ProgressActor()
    assert actor.take_update() == Update()
    actor.event("one")
    actor.progress(8, {"G loss": 1.0})
    actor.event("two")
    assert actor.take_update() == Update(8, {"G loss": 1.0}, ("one", "two"))
    assert actor.take_update() == Update(8, {"G loss": 1.0}, ())


def test_actor_keeps_the_first_failure() -> None:
    actor = ProgressActor()
    assert actor.failure() is None
    first = ConfigError("first")
    actor.fail(first)
    actor.fail(DataError("second"))
    assert actor.failure() is first


def test_actor_keeps_the_reason_of_a_stop() -> None:
    actor = ProgressActor()
    assert actor.stop_reason() == ""
    actor.set_stop_reason("samples are nearly equal")
    assert actor.stop_reason() == "samples are nearly equal"
