"""The watchdog detects numbers that are not finite, a discriminator that has won, and collapsed samples."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trainer.data.tensors import to_tensor
from trainer.finite import first_not_finite
from trainer.hooks.base import Hook, Stage, Training
from trainer.progress_actor import RunAction

COMPARED = 16
"""The number of generated and of real images whose distances are compared. The cost grows with its square."""
_ACTIONS = {"warn": RunAction.CONTINUE, "roll_back": RunAction.ROLL_BACK, "stop": RunAction.STOP}


class Watchdog(Hook):
    """Reports each fault once, when it begins, and requests `watchdog.action`."""

    stage: ClassVar[Stage] = Stage.JUDGE

    def start(self, training: Training) -> None:
        """Forget all faults."""
        self._won_since: int | None = None
        self._reported: set[str] = set()

    def after_step(self, training: Training) -> None:
        """Check the figures after steps that log them, and the generated images after steps that draw samples."""
        if not training.is_main:
            return
        if training.due(training.config.run.log_images):
            self._check_numbers(training)
            self._check_realness(training)
        interval = training.config.run.sample_images
        if interval and training.due(interval):
            self._check_diversity(training, interval)

    def _check_numbers(self, training: Training) -> None:
        # An evaluation's score may be infinite, such as the PSNR of equal images.
        broken = [name for name, value in training.losses.items() if not math.isfinite(value)]
        broken += [name for name, pair in training.realness.items() if not all(map(math.isfinite, pair))]
        # A gradient that is not finite makes weights not finite, even if the losses are finite.
        weight = first_not_finite(training.task.networks.named_parameters())
        broken += [] if weight is None else [weight]
        before = training.seen - training.config.run.log_images
        self._report(training, "not finite", f"{', '.join(broken)}: not a finite number" if broken else None, before)

    def _check_realness(self, training: Training) -> None:
        rules = training.config.watchdog
        won = [name for name, (real, fake) in training.realness.items() if real - fake >= rules.won_margin]
        if not won:
            self._won_since = None
        elif self._won_since is None:
            self._won_since = training.seen
        since = self._won_since
        late = since is not None and training.seen - since >= rules.won_images
        text = (
            f"{', '.join(won)} has distinguished real from generated images for {training.seen - (since or 0)} images"
        )
        self._report(training, "won", text if late else None, since or 0)

    def _check_diversity(self, training: Training, interval: int) -> None:
        dataset = training.dataset
        numbers = np.arange(min(COMPARED, *(dataset.count(domain) for domain in dataset.spec.domains)))
        examples = [dataset.example(int(number)) for number in numbers]
        real = {domain: to_tensor([each.images[domain] for each in examples]) for domain in dataset.spec.domains}
        labels = np.array([each.label for each in examples]) if dataset.spec.classes is not None else None
        batch = training.make_batch(real, numbers, labels)
        with training.evaluating() as generators:
            generated = training.task.generate(generators, batch)
        shares = {
            domain: _diversity(images) / max(_diversity(batch.images[domain]), 1e-9)
            for domain, images in generated.items()
        }
        poor = [
            f"{domain} {share:.3f}" for domain, share in shares.items() if share < training.config.watchdog.diversity
        ]
        text = (
            f"samples are nearly equal (mean distance as a share of the real images': {', '.join(poor)})"
            if poor
            else None
        )
        self._report(training, "collapsed", text, training.seen - interval)

    def _report(self, training: Training, fault: str, text: str | None, healthy_until: int) -> None:
        """Report `text` when `fault` begins, and forget the fault when `text` is None.

        A rollback may use checkpoints of up to `healthy_until` images.
        """
        if text is None:
            self._reported.discard(fault)
            return
        if fault in self._reported:
            return
        self._reported.add(fault)
        rules = training.config.watchdog
        action = _ACTIONS[rules.action]
        if action is RunAction.ROLL_BACK and training.state.rollback_count >= rules.rollbacks:
            text, action = f"{text}, after {training.state.rollback_count} rollbacks", RunAction.STOP
        training.reporter.event(f"watchdog: {text}")
        if action is RunAction.STOP:
            training.reporter.stop_reason(text)
        training.requested_action = max(training.requested_action, action)
        training.last_healthy_image = min(training.last_healthy_image, max(healthy_until, 0))


def _diversity(images: Tensor) -> float:
    """Return the mean L1 distance between two of the images [n, c, h, w], per value."""
    flat = images.float().flatten(1)
    pairs = torch.cdist(flat, flat, p=1).sum() / max(len(flat) * (len(flat) - 1), 1)
    return float(pairs) / flat.shape[1]
