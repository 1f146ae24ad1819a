"""The load of a replica: what counts as busy and as ongoing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from serving.admission import Admission
from serving.config import Capacity
from serving.errors import OverloadedError
from serving.load import LoadMeter
from serving.scaling import Load

IDLE = Load(0.0, 0.0)


@dataclass
class Replica:
    """A replica whose clocks a test moves. A useful batch takes 0.1 s."""

    admission: Admission = field(default_factory=Admission)
    now: float = 0.0
    ran: float = 0.0
    computed: float = 0.0

    def __post_init__(self) -> None:
        self.meter = LoadMeter(self.admission, lambda: self.ran, 0.1, lambda: self.now, lambda: self.computed)

    def sample(self, *, seconds: float = 2.0, ran: float = 0.0, computed: float = 0.0) -> Load:
        self.now, self.ran, self.computed = self.now + seconds, self.ran + ran, self.computed + computed
        return self.meter.sample()


def test_replica_that_was_asked_for_nothing_has_no_load() -> None:
    # Ray's own work takes time of the event loop's thread too.
    assert Replica().sample(computed=0.2) == IDLE


def test_busy_is_the_greater_share_of_the_model_and_the_event_loop() -> None:
    replica = Replica()
    with replica.admission.work(1, 1, 0.001):
        pass
    assert replica.sample(ran=0.5, computed=1.5) == Load(0.75, 0)
    with replica.admission.work(1, 1, 0.001):
        pass
    assert replica.sample(ran=1.0, computed=0.5) == Load(0.5, 0)
    assert replica.sample() == IDLE


def test_run_that_was_longer_than_the_interval_is_busy_for_all_of_it() -> None:
    replica = Replica()
    with replica.admission.work(1, 1, 9.0):
        pass
    assert replica.sample(ran=9.0).busy == 1


def test_ongoing_counts_batches_and_no_more_than_requests() -> None:
    replica = Replica()
    with replica.admission.work(1, 1, 0.025), replica.admission.work(1, 1, 0.025):
        assert replica.sample().ongoing == pytest.approx(0.5)
        with replica.admission.work(256, 1, 5.0):
            assert replica.sample().ongoing == 3
    replica.sample()
    assert replica.sample() == IDLE


def test_refused_work_is_demand() -> None:
    replica = Replica(Admission(Capacity(images=1)))
    with replica.admission.work(1, 1, 0.1):
        replica.sample()
        with pytest.raises(OverloadedError):
            replica.admission.work(1, 1, 0.1)
    assert replica.sample(computed=0.01).busy > 0
