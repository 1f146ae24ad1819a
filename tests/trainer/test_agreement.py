"""The agreement of the ranks on stopping, with other ranks and a clock of the test's own."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from trainer.loop import AGREEMENT_SECONDS, Agreement
from trainer.progress_actor import RunAction


class FakeRanks:
    """This rank and another one, whose numbers are `other` at every reduction."""

    def __init__(self, other: list[int]) -> None:
        self.other, self.reductions = other, 0

    def highest(self, numbers: Sequence[int]) -> list[int]:
        self.reductions += 1
        return [max(pair) for pair in zip(numbers, self.other, strict=True)]


@pytest.mark.parametrize(("other_interval", "expected"), [(10, 10), (1000, 64)])
def test_agreement_comes_after_the_smallest_interval_of_all_ranks(other_interval: int, expected: int) -> None:
    ranks, now = FakeRanks([RunAction.CONTINUE, -other_interval]), [0.0]
    agreement = Agreement(ranks, lambda: now[0])  # type: ignore[arg-type]
    reductions = []
    for _ in range(1 + 2 * expected):
        now[0] += AGREEMENT_SECONDS / 64
        agreement.after_step(RunAction.CONTINUE, now=False)
        reductions.append(ranks.reductions)
    assert reductions == [1] * expected + [2] * expected + [3]


def test_agreement_takes_the_highest_request_at_its_steps_and_at_those_that_log() -> None:
    ranks, now = FakeRanks([RunAction.CONTINUE, -100]), [0.0]
    agreement = Agreement(ranks, lambda: now[0])  # type: ignore[arg-type]

    def step(requested: RunAction, logs: bool = False) -> RunAction:
        now[0] += AGREEMENT_SECONDS / 128
        return agreement.after_step(requested, now=logs)

    assert step(RunAction.CONTINUE) is RunAction.CONTINUE
    ranks.other[0] = RunAction.PREEMPT
    assert step(RunAction.CONTINUE) is RunAction.CONTINUE, "the ranks do not agree at this step"
    assert step(RunAction.CONTINUE, logs=True) is RunAction.PREEMPT
    assert step(RunAction.ROLL_BACK, logs=True) is RunAction.ROLL_BACK
