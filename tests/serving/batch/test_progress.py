"""The tally of a job's images, and the line that it shows."""

from __future__ import annotations

from serving.batch.output import Record
from serving.batch.progress import Tally
from serving.batch.shard import Outcome


def test_tally_counts_from_the_first_shard_on() -> None:
    times = iter([0.0, 30.0, 34.0, 34.0, 34.0, 34.0, 34.0, 34.0])
    tally = Tally(100, 20, lambda: next(times))
    tally.add(Outcome(Record(0, "", 10, 1, 0, ""), is_new=True, seconds={"run": 3.0, "encode": 1.0}))
    tally.add(Outcome(Record(1, "", 8, 1, 0, "", (None, None)), is_new=True))  # type: ignore[arg-type]
    assert (tally.done, tally.errors, tally.new) == (40, 2, 20)
    assert tally.text() == "40 of 100 images · 2.5 images/s · 0:00:24 to go · 2 bad inputs · run 75 %, encode 25 %"


def test_tally_counts_the_images_in_hand_of_unfinished_shards() -> None:
    now = 0.0
    tally = Tally(100, 20, lambda: now)
    now = 30.0
    tally.set_in_hand(4)
    now = 32.0
    tally.set_in_hand(14)
    assert tally.text() == "34 of 100 images · 5 images/s · 0:00:13 to go"
    tally.set_in_hand(4)
    tally.add(Outcome(Record(0, "", 10, 1, 0, ""), is_new=True))
    assert (tally.shown, tally.done, tally.images_per_second) == (34, 30, 5.0)


def test_tally_whose_images_in_hand_were_lost_counts_from_the_start() -> None:
    now = 0.0
    tally = Tally(100, 0, lambda: now)
    now = 10.0
    tally.set_in_hand(50)
    tally.set_in_hand(20)
    assert tally.images_per_second == 2.0


def test_tally_of_a_verification_says_that_it_checks() -> None:
    tally = Tally(30, 0, lambda: 0.0)
    assert tally.text() == "0 of 30 images · waiting for workers"
    tally.add(Outcome(Record(0, "", 10, 1, 0, ""), is_new=False))
    assert tally.text() == "10 of 30 images · checking"
    tally.add(Outcome(Record(1, "", 20, 1, 0, ""), is_new=True))
    assert (tally.new, tally.new_shards) == (20, 1)
