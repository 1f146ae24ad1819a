"""What DeepSpeed costs over the bare PyTorch step: the ratio of the two in one process, as JSON on standard output."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("DS_ACCELERATOR", "cpu")

import torch
import torch.distributed as dist

from trainer.config import RunConfig, find_config, load_config
from trainer.engine import Players
from trainer.tasks.base import Batch, Task, only_trainable
from trainer.tasks.build import build_task

ROUNDS = 12


def main() -> None:
    """Time CycleGAN's step (ResNet-9, 64 px, batch 1, one rank) both ways, in turn."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29533",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
    }
    dist.init_process_group("gloo", rank=0, world_size=1)
    overrides = ["data.size=64", "run.workers=1", "batch.global_size=1", "precision=fp32"]
    config = load_config(find_config("cyclegan-horse2zebra"), overrides)
    with_deepspeed, bare = _deepspeed_step(config), _bare_step(build_task(config))
    ratios, seconds = [], []
    for number in range(ROUNDS):
        batch = Batch(torch.tensor([number]), {domain: torch.rand(1, 3, 64, 64) * 2 - 1 for domain in "AB"})
        pair = [_time(step, batch) for step in (with_deepspeed, bare)]
        if number >= 2:
            ratios.append(pair[0] / pair[1])
            seconds.append(pair[1])
    dist.destroy_process_group()
    result = {
        "deepspeed_over_bare": statistics.median(ratios),
        "bare_seconds": statistics.median(seconds),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))  # noqa: T201


def _deepspeed_step(config: RunConfig) -> Callable[[Batch], None]:
    task = build_task(config)
    players = Players(task, config, torch.device("cpu"))

    def step(batch: Batch) -> None:
        for phase in task.phases:
            players.step(phase, [batch], 0.0)

    return step


def _bare_step(task: Task) -> Callable[[Batch], None]:
    optimizers = {
        phase.name: task.optimizer(phase).build(
            [p for name in phase.networks for p in task.networks[name].parameters()]
        )
        for phase in task.phases
    }

    def step(batch: Batch) -> None:
        for phase in task.phases:
            with only_trainable(task.networks, phase.networks):
                torch.autograd.backward(task.losses(phase, batch).total)
            optimizers[phase.name].step()
            optimizers[phase.name].zero_grad()

    return step


def _time(step: Callable[[Batch], None], batch: Batch) -> float:
    start = time.perf_counter()
    step(batch)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
