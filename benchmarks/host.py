"""Measures how much CPU time the training thread needs per `gan` step for its batches, before and after a change.

    python -m benchmarks.host

Before, the training thread drew the latents of both phases and copied them to the device with blocking calls. Now the
loader's threads draw them ahead, and the copies do not block. The measured time is the training thread's own CPU time
per step, from the request for the next batches until images and latents are on the device. Batches have 128 digits,
latents 100 numbers. Steps of plain PyTorch run between the measurements, so that the loader's threads compete as they
do in training. Both ways are timed in turn in one run. Writes `benchmarks/results/host.json`.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Generator
from functools import partial
from typing import Any

import torch

from benchmarks.bare import BareStep
from benchmarks.report import write_report
from trainer.config_files import find_config, load_config
from trainer.engine import autocast_dtype
from trainer.loader import Loader, Prepare, Worker, draw_nothing
from trainer.run_config import RunConfig
from trainer.tasks.base import Batch, Task
from trainer.tasks.build import build_dataset, build_task

BATCH, LATENT, STEPS, WARM_UP = 128, 100, 40, 5


def main() -> None:
    """Measure both ways and write the result."""
    overrides = [f"batch.global_size={BATCH}", f"task.generator.latent_dim={LATENT}", "run.workers=1"]
    config = load_config(find_config("digits"), overrides)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    milliseconds = _measure(config, device)
    results = {
        "device": device.type,
        "batch": BATCH,
        "latent_dim": LATENT,
        "milliseconds_per_step": milliseconds,
        "after_over_before": milliseconds["after"] / milliseconds["before"],
    }
    write_report("host", results)


def _measure(config: RunConfig, device: torch.device) -> dict[str, float]:
    """Return the median CPU time per step, in milliseconds, that the training thread needs for its batches."""
    task = build_task(config)
    take_step = BareStep(task, device, autocast_dtype(config, device))
    prepares: dict[str, Prepare] = {"before": draw_nothing, "after": partial(task.prepare, seed=config.run.seed)}
    steps: dict[str, Generator[list[Batch], None, None]] = {
        name: Loader(build_dataset(config), prepare, config.batch, Worker(), device=device).steps(0)
        for name, prepare in prepares.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(STEPS):
        for name, loader_steps in steps.items():
            start = time.thread_time()
            batches = next(loader_steps)
            if name == "before":
                batches = [_draw_here(task, batch, config.run.seed, device) for batch in batches]
            if number >= WARM_UP:
                seconds[name].append(time.thread_time() - start)
            take_step(batches)
    for loader_steps in steps.values():
        loader_steps.close()
    return {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()}


def _draw_here(task: Task, batch: Batch, seed: int, device: torch.device) -> Batch:
    """Return `batch` with latents that this thread draws and copies with blocking calls."""
    draws: dict[str, Any] = task.prepare(batch.numbers.numpy(), seed)
    return dataclasses.replace(batch, draws={name: torch.from_numpy(a).to(device) for name, a in draws.items()})


if __name__ == "__main__":
    main()
