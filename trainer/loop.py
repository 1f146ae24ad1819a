"""`fit`: the training loop."""

from __future__ import annotations

import contextlib
import math
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer import registry
from trainer.background import BackgroundWriter
from trainer.checkpoint import Checkpoint, Checkpoints, changed_images
from trainer.ema import Ema
from trainer.engine import Players
from trainer.errors import CheckpointError, ConfigError, is_out_of_memory
from trainer.hooks.base import Hook, Reporter, Training, Verdict
from trainer.hooks.checkpoints import CheckpointWriter
from trainer.hooks.metrics_log import MetricsLog
from trainer.hooks.samples import Samples
from trainer.hooks.scaling import Scaling
from trainer.hooks.skipped import Skipped
from trainer.hooks.snapshots import Snapshots
from trainer.hooks.tensorboard import TensorBoard
from trainer.hooks.watchdog import Watchdog
from trainer.loader import Loader, Worker, draw_nothing, parts_of_step
from trainer.ranks import Ranks
from trainer.run_config import RunConfig
from trainer.snapshot import forget_snapshots_after
from trainer.state import State
from trainer.tasks.build import build_dataset, build_task
from zorse_common.storage import Storage


def fit(config: RunConfig, reporter: Reporter, device: torch.device) -> Verdict:
    """Train as `config` says, as one rank of an initialised torch.distributed group, from the newest checkpoint on.

    Returns how it ended: `GO_ON` when all images were seen, `PREEMPT` after a checkpoint that was asked for, `STOP`
    when the watchdog gave up.

    Raises:
        trainer.errors.TrainerError: what a user can mend.
    """
    try:
        return _fit(config, reporter, device)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"a worker's memory ({device.type}) does not hold a step of {config.micro_size} images: make "
            "batch.global_size, data.size or a network's width smaller, or batch.accumulation larger"
        ) from error


def _fit(config: RunConfig, reporter: Reporter, device: torch.device) -> Verdict:
    training = prepare(config, reporter, device)
    hooks: list[Hook] = [
        MetricsLog(),
        Samples(),
        TensorBoard(),
        Snapshots(),
        CheckpointWriter(),
        Watchdog(),
        Skipped(),
        Scaling(),
    ]
    try:
        while True:
            for hook in hooks:
                hook.start(training)
            _train(training, hooks)
            for hook in hooks:
                hook.finish(training)
            if training.verdict is not Verdict.ROLL_BACK:
                return training.verdict
            if not _roll_back(training):
                return Verdict.STOP
    finally:
        training.files.finish()


def prepare(config: RunConfig, reporter: Reporter, device: torch.device) -> Training:
    """Build this rank's part of the run and take over the newest good checkpoint, if there is one. Raises as `fit`."""
    task, dataset = build_task(config), build_dataset(config)
    players = Players(task, config, device)
    generators = nn.ModuleDict({name: task.networks[name] for name in task.generators})
    ema = Ema(generators, config.ema.half_life_images) if config.ema else None
    state, storage = State(task, players, ema), Storage(config.run.dir)
    shown = ema.networks if ema else generators
    files = BackgroundWriter(storage, reporter.event)
    training = Training(config, task, dataset, shown, state, storage, files, reporter, Ranks(), device)
    _report_data(training)
    _restore(training, Checkpoints(storage))
    _tell_where(training)
    return training


def _report_data(training: Training) -> None:
    if training.is_main:
        for fact in training.source.facts:
            training.reporter.event(f"data: {fact}")


def _roll_back(training: Training) -> bool:
    """Go back to a checkpoint from before the trouble, to draw other noise from there on; False where there is none."""
    attempt, checkpoints = training.state.attempt + 1, Checkpoints(training.storage)
    if not _restore(training, checkpoints, training.sound_until):
        if training.is_main:
            limit = training.sound_until
            training.reporter.event(f"watchdog: there is no checkpoint of at most {limit} images to go back to")
        return False
    if training.is_main:
        checkpoints.forget_after(training.seen)
        forget_snapshots_after(training.storage, training.seen)
    training.wish, training.verdict, training.sound_until = Verdict.GO_ON, Verdict.GO_ON, math.inf
    _reseed(training, attempt)
    _tell_where(training)
    return True


def _restore(training: Training, checkpoints: Checkpoints, until: float = math.inf) -> bool:
    """Take over the newest good checkpoint of at most `until` images; False where there is none."""
    config, ranks = training.config, training.ranks
    found = ranks.share(checkpoints.find(until) if ranks.is_main else None)
    if ranks.is_main:
        for line in found.damaged:
            training.reporter.event(line)
    if found.images_seen is not None:
        checkpoint = checkpoints.read(found.images_seen)
        parts = parts_of_step(0, config.batch, ranks.count, ranks.rank)
        training.state.restore(checkpoint, {slot for part in parts for slot in part})
        _check_images(training, checkpoint)
        if training.state.attempt:
            _reseed(training, training.state.attempt)
    elif found.damaged:
        raise CheckpointError(
            f"{training.storage.uri} has no good checkpoint left: remove its checkpoints to start anew"
        )
    return found.images_seen is not None


def _tell_where(training: Training) -> None:
    if training.is_main:
        where = f"{training.ranks.count} workers on {training.device.type}"
        training.reporter.event(f"training from image {training.seen} on with {where}")


def _check_images(training: Training, checkpoint: Checkpoint) -> None:
    counts = {domain: training.source.count(domain) for domain in training.task.domains}
    allowed = training.config.run.allow_new_data
    change = changed_images(checkpoint, counts, training.source.digest, allowed=allowed)
    if change and training.is_main:
        training.reporter.event(f"resumed with other training images ({change}), and so in another order")


def _reseed(training: Training, attempt: int) -> None:
    """Draw everything but the weights from the seed of `attempt`; the first is the run's own."""
    seed = training.config.run.seed + (attempt << 64)
    training.state.attempt = attempt
    training.task.reseed(seed)
    training.source = registry.build(training.config.data, seed=seed)


def _train(training: Training, hooks: list[Hook]) -> None:
    """Take steps until all images were seen or the ranks agree to end."""
    config, state, ranks = training.config, training.state, training.ranks
    means = _Means()
    worker = Worker(ranks.rank, ranks.count)
    loader = Loader(training.source, draw_nothing, config.batch, worker, device=training.device)
    with contextlib.closing(loader.steps(state.seen)) as steps:
        while training.verdict is Verdict.GO_ON and not training.finished:
            asked = time.monotonic()
            training.batches = batches = next(steps)
            training.spent.waiting += time.monotonic() - asked
            for phase in training.task.phases:
                if training.step % phase.interval == 0:
                    means.add(state.players.step(phase, batches, state.seen / config.run.total_images))
            state.advance(config.batch.global_size)
            training.metrics = means.take() if training.due(config.run.log_images) else {}
            training.picture = None
            stepped = time.monotonic()
            for hook in hooks:
                hook.after_step(training)
            training.spent.hooks += time.monotonic() - stepped
            if training.reporter.stop_requested():
                training.wish = max(training.wish, Verdict.PREEMPT)
            training.verdict = Verdict(ranks.highest(training.wish))


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
