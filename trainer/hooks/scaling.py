"""`scaling.json`: where the time of a run went, on each rank, and what zorse costs over the bare step."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.bare import BareStep
from trainer.engine import autocast_dtype
from trainer.hooks.base import Spent, Training, Verdict
from trainer.tasks.base import Batch
from trainer.tasks.build import build_task

FILE = "scaling.json"
WARM_UP, PROFILED, BARE = 5, 3, 4
"""Steps before the profiled ones, those, and those that are taken without zorse at the end."""
_COLLECTIVES = ("gloo:", "nccl:")


@dataclass(frozen=True)
class _Mark:
    """A moment of the run."""

    time: float
    seen: int
    spent: Spent


class Scaling:
    """Times the run between its first steps and its last one, which does all that is due at the end."""

    def start(self, training: Training) -> None:
        """Nothing is timed before the networks are warm."""
        self._first = training.step
        self._profile: profile | None = None
        self._communication: float | None = None
        self._from: _Mark | None = None
        self._until: _Mark | None = None

    def after_step(self, training: Training) -> None:
        """Profile a few steps, then start the clock."""
        taken = training.step - self._first
        left = -(-(training.config.run.total_images - training.seen) // training.config.batch.global_size)
        if taken == WARM_UP and left > PROFILED + BARE:
            activities = [ProfilerActivity.CPU]
            if training.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile, self._profiled_from = profile(activities=activities), _now(training)
            self._profile.start()
        elif taken == WARM_UP + PROFILED and self._profile is not None:
            elapsed = _now(training) - self._profiled_from
            self._profile.stop()
            events = [e for e in self._profile.key_averages() if e.key.startswith(_COLLECTIVES)]
            seconds = sum(max(e.cpu_time_total, e.device_time_total) for e in events) / 1e6
            self._profile, self._communication = None, min(seconds / elapsed, 1.0)
        elif taken == WARM_UP + PROFILED + 1 and self._communication is not None:
            # A step later, so that the profiler's own work is not counted.
            self._from = _mark(training)
        elif left == 1:
            self._until = _mark(training)

    def finish(self, training: Training) -> None:
        """Compare with the bare step, and write the report, at the end of the run; each rank must call it."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        first, last = self._from, self._until
        if first is None or last is None or training.verdict is not Verdict.GO_ON:
            return
        elapsed, images = last.time - first.time, last.seen - first.seen
        steps = images / training.config.batch.global_size
        bare = _bare_seconds(training)
        mine = {
            "data_wait": (last.spent.waiting - first.spent.waiting) / elapsed,
            "hooks": (last.spent.hooks - first.spent.hooks) / elapsed,
            "communication": self._communication,
            "bare_step": bare * steps / elapsed,
        }
        ranks = training.ranks.gather(mine)
        if not training.is_main:
            return
        report = {"workers": len(ranks), "images_per_second": images / elapsed, "seconds_per_step": elapsed / steps}
        slowest = max(entry["bare_step"] for entry in ranks)
        report["cost_over_bare_step"] = 1 / slowest - 1
        training.files.write(FILE, (json.dumps(report | {"ranks": ranks}, indent=2) + "\n").encode())
        training.reporter.event(
            f"scaling: {report['images_per_second']:.3g} images/s with {len(ranks)} workers; data wait "
            f"{_percent(ranks, 'data_wait')}, communication {_percent(ranks, 'communication')}, hooks "
            f"{_percent(ranks, 'hooks')} of the time; {report['cost_over_bare_step']:+.1%} over the bare step"
        )


def _bare_seconds(training: Training) -> float:
    """The median time of a step of this rank's last images on freshly made networks."""
    task = build_task(training.config)
    step = BareStep(task, training.device, autocast_dtype(training.config, training.device))
    seconds = []
    for _ in range(BARE):
        batches = [Batch(batch.numbers, batch.images, weight=batch.weight) for batch in training.batches]
        begun = _now(training)
        step(batches)
        seconds.append(_now(training) - begun)
    return statistics.median(seconds[1:])


def _mark(training: Training) -> _Mark:
    return _Mark(_now(training), training.seen, dataclasses.replace(training.spent))


def _now(training: Training) -> float:
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.monotonic()


def _percent(ranks: list[dict[str, float]], key: str) -> str:
    values = [entry[key] for entry in ranks]
    return f"{min(values):.1%}" if len(values) == 1 else f"{min(values):.1%}–{max(values):.1%}"
