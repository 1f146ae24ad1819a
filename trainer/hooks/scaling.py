"""`scaling.json`: where the time of a run went, on each rank, and what zorse costs over the bare step."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time

import torch
from torch.profiler import ProfilerActivity, profile

from trainer.bare import BareStep
from trainer.engine import autocast_dtype
from trainer.hooks.base import Training, Verdict
from trainer.tasks.base import Batch
from trainer.tasks.build import build_task

FILE = "scaling.json"
WARM_UP, PROFILED, BARE = 5, 3, 4
"""Steps before the profiled ones, those, and those that are taken without zorse at the end."""
_COLLECTIVES = ("gloo:", "nccl:")


class Scaling:
    """Times the run from its sixth step on; shorter runs have no report."""

    def start(self, training: Training) -> None:
        """Nothing is timed before the networks are warm."""
        self._first = training.step
        self._profile: profile | None = None
        self._communication: float | None = None

    def after_step(self, training: Training) -> None:
        """Profile a few steps, then start the clock."""
        taken = training.step - self._first
        left = (training.config.run.total_images - training.seen) // training.config.batch.global_size
        if taken == WARM_UP and left > PROFILED + BARE:
            activities = [ProfilerActivity.CPU]
            if training.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self._profile, self._begun = profile(activities=activities), _now(training)
            self._profile.start()
        elif taken == WARM_UP + PROFILED and self._profile is not None:
            elapsed = _now(training) - self._begun
            self._profile.stop()
            events = [e for e in self._profile.key_averages() if e.key.startswith(_COLLECTIVES)]
            seconds = sum(max(e.cpu_time_total, e.device_time_total) for e in events) / 1e6
            self._profile, self._communication = None, min(seconds / elapsed, 1.0)
        elif taken == WARM_UP + PROFILED + 1:
            # A step later, so that the profiler's own work is not counted.
            self._begun, self._from = _now(training), dataclasses.replace(training.spent)
            self._seen = training.seen

    def finish(self, training: Training) -> None:
        """Compare with the bare step, and write the report, at the end of the run; each rank must call it."""
        if self._profile is not None:
            self._profile.stop()
            self._profile = None
        enough = self._communication is not None and training.step - self._first > WARM_UP + PROFILED + BARE
        if not enough or training.verdict is not Verdict.GO_ON:
            return
        elapsed = _now(training) - self._begun
        images, spent = training.seen - self._seen, training.spent
        steps = images / training.config.batch.global_size
        bare = _bare_seconds(training)
        mine = {
            "data_wait": (spent.waiting - self._from.waiting) / elapsed,
            "hooks": (spent.hooks - self._from.hooks) / elapsed,
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
        batches = [Batch(batch.numbers, batch.images, batch.weight) for batch in training.batches]
        begun = _now(training)
        step(batches)
        seconds.append(_now(training) - begun)
    return statistics.median(seconds[1:])


def _now(training: Training) -> float:
    if training.device.type == "cuda":
        torch.cuda.synchronize(training.device)
    return time.monotonic()


def _percent(ranks: list[dict[str, float]], key: str) -> str:
    values = [entry[key] for entry in ranks]
    return f"{min(values):.1%}" if len(values) == 1 else f"{min(values):.1%}–{max(values):.1%}"
