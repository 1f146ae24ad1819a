"""Measures the cost of a CycleGAN step with DeepSpeed over plain PyTorch, and of Ray, loader and hooks over that.

    python -m benchmarks.step

The figures are ratios of times that are taken in turn in one run, at an equal number of threads. The default is one
thread, so that on two cores Ray and the loader have a core to themselves, as they have beside a GPU. ZORSE_THREADS sets
another number. Writes `benchmarks/results/step.json`.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.bare import BareStep
from benchmarks.report import write_report
from trainer.config_files import find_config, load_config
from trainer.engine import PlayerEngines, autocast_dtype
from trainer.history import RunHistory
from trainer.run import train
from trainer.run_config import RunConfig
from trainer.tasks.base import Batch
from trainer.tasks.build import build_task, data_spec
from zorse_common.files import write_image
from zorse_common.storage import Storage

SETTINGS = {"64 px, batch 1": (64, 1, 12, 40), "128 px, batch 4": (128, 4, 3, 14)}
"""Image size in pixels, batch size, rounds of paired steps, and steps of the run under Ray."""
STAGES = (0, 1, 2)
TOP = 8

Step = Callable[[list[Batch]], None]


def main() -> None:
    """Measure every setting and write the result."""
    with tempfile.TemporaryDirectory() as folder:
        _write_images(Path(folder) / "images")
        results = {name: _measure(Path(folder), *setting) for name, setting in SETTINGS.items()}
    write_report("step", {"settings": results})


def _measure(folder: Path, size: int, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    config = _config(folder, size, batch, steps)
    before = _paired(config, rounds, STAGES)
    train(config)
    performance = RunHistory(Storage(config.run.dir)).performance_curves
    # The first interval is left out: it includes the warm-up of caches and of the allocator.
    shares = {name: statistics.mean(value for _, value in points[1:]) for name, points in performance.items()}
    seconds_per_step = batch / shares["images/s"]
    # Repeated after the run, because the machine may have become slower or faster meanwhile.
    after = _paired(config, rounds, STAGES[:1])
    with_deepspeed = statistics.mean(seconds["stage 0"] for seconds in (before, after))
    over_bare = {stage: before[stage] / before["bare"] for stage in before if stage != "bare"}
    over_bare["stage 0"] = statistics.mean(seconds["stage 0"] / seconds["bare"] for seconds in (before, after))
    return {
        "bare_seconds": [before["bare"], after["bare"]],
        "deepspeed_over_bare": over_bare,
        "seconds_in_the_run": seconds_per_step,
        "zorse_over_deepspeed": seconds_per_step / with_deepspeed,
        "in_the_run": shares,
        "deepspeed_profile": _profile(config),
    }


def _config(folder: Path, size: int, batch: int, steps: int, stage: int = 0) -> RunConfig:
    overrides = [
        f"run.dir={folder}/{size}",
        f"run.total_images={steps * batch}",
        f"run.cpus_per_worker={torch.get_num_threads()}",
        "run.workers=1",
        f"run.checkpoint_images={steps * batch}",
        f"batch.global_size={batch}",
        f"data.root={folder}/images",
        f"data.size={size}",
        "precision=fp32",
    ]
    if stage:
        overrides.append(f"deepspeed.zero_optimization.stage={stage}")
    return load_config(find_config("cyclegan-horse2zebra"), overrides)


def _paired(config: RunConfig, rounds: int, stages: Sequence[int]) -> dict[str, float]:
    """Take steps in plain PyTorch and at each ZeRO stage in turn. Return the median seconds of each kind."""
    steps = {"bare": _bare(config)} | {f"stage {stage}": _deepspeed(config, stage) for stage in stages}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        batches = [_batch(config, number)]
        for name, step in steps.items():
            start = time.perf_counter()
            step(batches)
            if number >= 2:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _bare(config: RunConfig) -> Step:
    device = torch.device("cpu")
    return BareStep(build_task(config), device, autocast_dtype(config, device))


def _deepspeed(config: RunConfig, stage: int) -> Step:
    section = {"zero_optimization": {"stage": stage}} if stage else {}
    task = build_task(config)
    engines = PlayerEngines(task, config.model_copy(update={"deepspeed": section}), torch.device("cpu"))

    def step(batches: list[Batch]) -> None:
        for phase in task.phases:
            engines.step(phase, batches, 0.0)

    return step


def _profile(config: RunConfig) -> list[dict[str, Any]]:
    """Return the `TOP` Python functions of DeepSpeed in which a step at stage 0 spends the most milliseconds."""
    step, batches = _deepspeed(config, 0), [_batch(config, 0)]
    step(batches)
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(3):
        step(batches)
    profiler.disable()
    rows = [
        {"function": f"{Path(file).name}:{function}", "milliseconds": round(1000 * own / 3, 2)}
        for (file, _, function), (_, _, own, _, _) in pstats.Stats(profiler).stats.items()  # type: ignore[attr-defined]
        if "deepspeed" in file or "foreach" in function or "dist" in function
    ]
    return sorted(rows, key=lambda row: -float(row["milliseconds"]))[:TOP]


def _batch(config: RunConfig, number: int) -> Batch:
    draw, size = torch.Generator().manual_seed(number), data_spec(config).domains["A"].size
    assert size is not None
    count = config.batch.global_size
    images = {domain: torch.rand(count, 3, size, size, generator=draw) * 2 - 1 for domain in "AB"}
    return Batch(torch.arange(number * count, (number + 1) * count), images)


def _write_images(folder: Path) -> None:
    """Write 16 noise images of 256 × 256 pixels for each domain."""
    draw = np.random.default_rng(0)
    for domain in "AB":
        for number in range(16):
            write_image(folder / f"train{domain}" / f"{number}.png", draw.integers(0, 256, (256, 256, 3), np.uint8))


if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("ZORSE_THREADS", "1")))
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    dist.init_process_group("gloo", rank=0, world_size=1)
    main()
    dist.destroy_process_group()
