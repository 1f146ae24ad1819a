"""`fit`: the training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer import registry
from trainer.background import BackgroundWriter
from trainer.checkpoint import Checkpoint, Checkpoints, changed_images
from trainer.ema import Ema
from trainer.engine import PlayerEngines
from trainer.errors import CheckpointError, ConfigError, is_out_of_memory
from trainer.hooks.base import Hook, Reporter, Training
from trainer.hooks.checkpoints import CheckpointWriter
from trainer.hooks.evaluation import Evaluation
from trainer.hooks.metrics_log import MetricsLog
from trainer.hooks.performance import Performance
from trainer.hooks.samples import Samples
from trainer.hooks.skipped import Skipped
from trainer.hooks.snapshots import Snapshots
from trainer.hooks.tensorboard import TensorBoard
from trainer.hooks.watchdog import Watchdog
from trainer.loader import Loader, Worker, parts_of_step
from trainer.progress_actor import RunAction
from trainer.ranks import Ranks
from trainer.run_config import RunConfig
from trainer.snapshot import forget_snapshots_after
from trainer.state import State
from trainer.tasks.base import Losses
from trainer.tasks.build import build_dataset, build_task
from zorse_common.storage import Storage

HOOKS: tuple[type[Hook], ...] = (
    Performance,
    Evaluation,
    Samples,
    MetricsLog,
    TensorBoard,
    Skipped,
    Snapshots,
    CheckpointWriter,
    Watchdog,
)
"""The hooks of every run. They are called in the order of their stages, not in this order."""
AGREEMENT_SECONDS = 0.5
"""The time between two agreements of the ranks on stopping. They also agree at steps that log figures."""


def fit(config: RunConfig, reporter: Reporter, device: torch.device, threads: int | None = None) -> RunAction:
    """Train as one rank of an initialised torch.distributed group, from the newest checkpoint if there is one.

    `threads` is the number of the loader's decoder threads, by default one for each CPU. Returns how training ended:
    `CONTINUE` if all images were seen, `PREEMPT` after a requested checkpoint, `STOP` if the watchdog stopped the run.

    Raises:
        trainer.errors.TrainerError: an error that the user can fix.
    """
    try:
        return _fit(config, reporter, device, threads)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(
            f"a worker's memory ({device.type}) does not hold a step of {config.micro_size} images: make "
            "batch.global_size, data.size or a network's width smaller, or batch.accumulation larger"
        ) from error


def _fit(config: RunConfig, reporter: Reporter, device: torch.device, threads: int | None) -> RunAction:
    training = prepare(config, reporter, device)
    hooks = in_order(HOOKS)
    try:
        while True:
            for hook in hooks:
                hook.start(training)
            _train(training, hooks, threads)
            for hook in hooks:
                hook.finish(training)
            if training.agreed_action is not RunAction.ROLL_BACK:
                return training.agreed_action
            if not _roll_back(training):
                return RunAction.STOP
    finally:
        training.files.finish()


def in_order(hooks: Iterable[type[Hook]]) -> list[Hook]:
    """Construct each of `hooks` and return them in the order of their stages."""
    return sorted((hook() for hook in hooks), key=lambda hook: hook.stage)


def prepare(config: RunConfig, reporter: Reporter, device: torch.device) -> Training:
    """Build this rank's part of the run, and restore the newest good checkpoint if there is one. Raises as `fit`."""
    task, dataset = build_task(config), build_dataset(config)
    engines = PlayerEngines(task, config, device)
    generators = nn.ModuleDict({name: task.networks[name] for name in task.exports()})
    ema = Ema(generators, config.ema.half_life_images) if config.ema else None
    state, storage = State(task, engines, ema), Storage(config.run.dir)
    exported = ema.networks if ema else generators
    files = BackgroundWriter(storage, reporter.event)
    training = Training(config, task, dataset, exported, state, storage, files, reporter, Ranks(), device)
    for fact in dataset.facts:
        training.report(f"data: {fact}")
    _restore(training, Checkpoints(storage))
    _report_start(training)
    return training


def _roll_back(training: Training) -> bool:
    """Restore a checkpoint from before the fault and change the seed of all draws; return False if there is none."""
    # `_restore` sets the rollback count to that of the checkpoint, so the new one is computed first.
    count, checkpoints = training.state.rollback_count + 1, Checkpoints(training.storage)
    if not _restore(training, checkpoints, training.last_healthy_image):
        reason = f"there is no checkpoint of at most {training.last_healthy_image} images to restore"
        training.report(f"watchdog: {reason}")
        training.reporter.stop_reason(reason)
        return False
    if training.is_main:
        checkpoints.forget_after(training.seen)
        forget_snapshots_after(training.storage, training.seen)
    training.requested_action = training.agreed_action = RunAction.CONTINUE
    training.last_healthy_image = math.inf
    _reseed(training, count)
    _report_start(training)
    return True


def _restore(training: Training, checkpoints: Checkpoints, until: float = math.inf) -> bool:
    """Restore the newest good checkpoint of at most `until` images; return False if there is none."""
    config, ranks = training.config, training.ranks
    newest = ranks.share(checkpoints.find_newest(until) if ranks.is_main else None)
    for line in newest.damaged:
        training.report(line)
    if newest.images_seen is not None:
        checkpoint = checkpoints.read(newest.images_seen)
        # A slot is a position in the global batch. The example numbers of step 0 are the slots.
        parts = parts_of_step(0, config.batch, ranks.count, ranks.rank)
        training.state.load_state_dict(checkpoint, {slot for part in parts for slot in part})
        _check_images(training, checkpoint)
        if training.state.rollback_count:
            _reseed(training, training.state.rollback_count)
    elif newest.damaged:
        raise CheckpointError(
            f"{training.storage.uri} has no good checkpoint left: remove its checkpoints to start again from image 0"
        )
    return newest.images_seen is not None


def _report_start(training: Training) -> None:
    workers = f"{training.ranks.count} workers on {training.device.type}"
    training.report(f"training from image {training.seen} on with {workers}")


def _check_images(training: Training, checkpoint: Checkpoint) -> None:
    dataset = training.dataset
    counts = {domain: dataset.count(domain) for domain in dataset.spec.domains}
    allowed = training.config.run.allow_new_data
    change = changed_images(checkpoint, counts, dataset.digest, allowed=allowed)
    if change:
        training.report(f"resumed with changed training images ({change}): their order changes too")


def _seed(training: Training) -> int:
    """Return the seed of all draws but the initial weights: the run's seed, changed by each rollback."""
    # A run's seed is below 2⁶³: each rollback gets a seed that no other run and rollback has.
    return training.config.run.seed + (training.state.rollback_count << 64)


def _reseed(training: Training, rollback_count: int) -> None:
    training.state.rollback_count = rollback_count
    training.task.reseed(_seed(training))
    training.dataset = registry.build(training.config.data, seed=_seed(training))


def _train(training: Training, hooks: list[Hook], threads: int | None) -> None:
    """Take steps until all images were seen or the ranks agree to end."""
    config, state, spent = training.config, training.state, training.time_spent
    means, agreement = _Means(), Agreement(training.ranks)
    worker = Worker(training.ranks.rank, training.ranks.count)
    prepare_draws = partial(training.task.prepare, seed=_seed(training))
    loader = Loader(training.dataset, prepare_draws, config.batch, worker, device=training.device, threads=threads)
    with contextlib.closing(loader.steps(state.seen)) as steps:
        while training.agreed_action is RunAction.CONTINUE and not training.finished:
            wait_start = time.monotonic()
            batches = next(steps)
            spent.waiting += time.monotonic() - wait_start
            for phase in training.task.phases:
                if training.step % phase.interval == 0:
                    means.add(state.engines.step(phase, batches, state.seen / config.run.total_images))
            state.advance(config.batch.global_size)
            logs = training.due(config.run.log_images)
            training.losses, training.realness = means.take() if logs else ({}, {})
            training.scores, training.performance, training.picture = {}, {}, None
            hooks_start = time.monotonic()
            for hook in hooks:
                hook.after_step(training)
            spent.hooks += time.monotonic() - hooks_start
            if training.reporter.stop_requested():
                training.requested_action = max(training.requested_action, RunAction.PREEMPT)
            training.agreed_action = agreement.after_step(training.requested_action, now=logs)


class Agreement:
    """Lets the ranks agree on what happens next, by a reduction. All ranks reduce at the same steps."""

    def __init__(self, ranks: Ranks, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranks, self._clock = ranks, clock
        self._steps_left = self._interval = 1
        self._last = clock()

    def after_step(self, requested: RunAction, *, now: bool) -> RunAction:
        """Return the highest action that any rank requested, if the ranks agree at this step; else `CONTINUE`.

        They agree if `now` is true, which must be equal on every rank, and about every `AGREEMENT_SECONDS`. The ranks
        derive the number of steps up to the next agreement from their speed, and take the smallest.
        """
        self._steps_left -= 1
        if not now and self._steps_left > 0:
            return RunAction.CONTINUE
        seconds = max(self._clock() - self._last, 1e-9) / (self._interval - self._steps_left)
        # The smallest interval is the highest of the negative ones.
        action, negative = self._ranks.highest([requested, -max(1, int(AGREEMENT_SECONDS / seconds))])
        self._steps_left = self._interval = -negative
        self._last = self._clock()
        return RunAction(action)


class _Means:
    """Running means of logged scalars. The sums stay on the device, so that no step waits for them."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str], Tensor] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, losses: Losses) -> None:
        """Add the scalars of one phase."""
        for name, value in losses.logged.items():
            self._add(("logged", name), value)
        for name, (real, fake) in losses.realness.items():
            self._add(("real", name), real)
            self._add(("fake", name), fake)

    def take(self) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
        """Return the means since the last call, over all ranks: logged scalars by name, realness by discriminator.

        Every rank must call this method at the same step.
        """
        if not self._sums:
            return {}, {}
        totals = torch.stack([total.float() / self._counts[key] for key, total in self._sums.items()])
        dist.all_reduce(totals)
        means = dict(zip(self._sums, (totals / dist.get_world_size()).tolist(), strict=True))
        self._sums, self._counts = {}, {}
        logged = {name: mean for (kind, name), mean in means.items() if kind == "logged"}
        realness = {name: (mean, means["fake", name]) for (kind, name), mean in means.items() if kind == "real"}
        return logged, realness

    def _add(self, key: tuple[str, str], value: Tensor) -> None:
        self._sums[key] = self._sums[key] + value if key in self._sums else value
        self._counts[key] = self._counts.get(key, 0) + 1
