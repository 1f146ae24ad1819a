"""`fit`: the training loop."""

from __future__ import annotations

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.config import RunConfig
from trainer.ema import Ema
from trainer.engine import Players
from trainer.hooks.base import Hook, Reporter, Training
from trainer.hooks.metrics_log import MetricsLog
from trainer.hooks.samples import Samples
from trainer.hooks.skipped import Skipped
from trainer.hooks.snapshots import Snapshots
from trainer.loader import Loader
from trainer.storage import Storage
from trainer.tasks.build import build_source, build_task


def fit(config: RunConfig, reporter: Reporter, device: torch.device) -> None:
    """Train as `config` says, as one rank of an initialised torch.distributed group.

    Raises:
        trainer.errors.TrainerError: what a user can mend.
    """
    task, source = build_task(config), build_source(config)
    players = Players(task, config, device)
    generators = nn.ModuleDict({name: task.networks[name] for name in task.generators})
    ema = Ema(generators, config.ema.half_life_images) if config.ema else None
    shown = ema.networks if ema else generators
    storage, is_main = Storage(config.run.dir), dist.get_rank() == 0
    training = Training(config, task, source, shown, storage, reporter, device, is_main)
    hooks: list[Hook] = [MetricsLog(), Samples(), Snapshots(), Skipped()]
    means = _Means()
    for hook in hooks:
        hook.start(training)

    loader = Loader(source, config.batch, workers=dist.get_world_size(), rank=dist.get_rank(), device=device)
    with contextlib.closing(loader.steps(training.seen)) as steps:
        while not training.finished:
            batches = next(steps)
            for phase in task.phases:
                if training.step % phase.interval == 0:
                    means.add(players.step(phase, batches, training.seen / config.run.total_images))
            training.seen += config.batch.global_size
            if ema:
                ema.update(generators, config.batch.global_size, training.seen)
            training.metrics = means.take() if training.due(config.run.log_images) else {}
            for hook in hooks:
                hook.after_step(training)


class _Means:
    """Running means of logged scalars, kept on the device so that no step waits for them."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, logged: dict[str, Tensor]) -> None:
        """Count one phase's scalars."""
        for name, value in logged.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        """The means since the last call, over all ranks; every rank must call at the same step."""
        if not self._sums:
            return {}
        totals = torch.stack([self._sums[name].float() / self._counts[name] for name in self._sums])
        dist.all_reduce(totals)
        means = dict(zip(self._sums, (totals / dist.get_world_size()).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        return means
