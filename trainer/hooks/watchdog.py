"""Notices a game gone wrong: figures that are not finite, a discriminator that has won, samples that collapsed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.data.tensors import to_tensor
from trainer.hooks.base import Training, Verdict

COMPARED = 16
"""Images of each kind whose distances are compared; the pairs grow with the square."""
_ACTIONS = {"warn": Verdict.GO_ON, "roll_back": Verdict.ROLL_BACK, "stop": Verdict.STOP}


class Watchdog:
    """Warns, and asks for what `watchdog.action` says; each trouble is told once, when it begins to count."""

    def start(self, training: Training) -> None:
        """Nothing is wrong yet."""
        self._won_since: int | None = None
        self._told: set[str] = set()

    def after_step(self, training: Training) -> None:
        """Look at the means whenever the loop took them, and at the samples whenever they are drawn."""
        if not training.is_main:
            return
        if training.metrics:
            self._look_at_figures(training)
            self._look_at_game(training)
        interval = training.config.run.sample_images
        if interval and training.due(interval):
            self._look_at_samples(training, interval)

    def finish(self, training: Training) -> None:
        """Nothing is left to say."""

    def _look_at_figures(self, training: Training) -> None:
        broken = [name for name, value in training.metrics.items() if not math.isfinite(value)]
        # A gradient that is not finite leaves such weights, whatever the losses still say.
        weights = training.task.networks.named_parameters()
        broken += [name for name, weight in weights if not bool(weight.isfinite().all())][:1]
        before = training.seen - training.config.run.log_images
        self._report(training, "not finite", f"{', '.join(broken)}: not a finite number" if broken else None, before)

    def _look_at_game(self, training: Training) -> None:
        rules, figures = training.config.watchdog, training.metrics
        judges = [name.removesuffix("(real)") for name in figures if name.endswith("(real)")]
        won = [judge for judge in judges if figures[f"{judge}(real)"] - figures[f"{judge}(fake)"] >= rules.won_margin]
        if not won:
            self._won_since = None
        elif self._won_since is None:
            self._won_since = training.seen
        since = self._won_since
        late = since is not None and training.seen - since >= rules.won_images
        text = f"{', '.join(won)} has told real from made images for {training.seen - (since or 0)} images"
        self._report(training, "won", text if late else None, since or 0)

    def _look_at_samples(self, training: Training, interval: int) -> None:
        count = min(COMPARED, *(training.source.count(domain) for domain in training.task.domains))
        examples = [training.source.example(number) for number in range(count)]
        real = {
            domain: to_tensor([example.images[domain] for example in examples]).to(training.device)
            for domain in training.task.domains
        }
        was_training = training.generators.training
        training.generators.eval()
        with torch.no_grad():
            made = training.task.made(training.generators, real)
        training.generators.train(was_training)
        shares = {domain: _diversity(images) / max(_diversity(real[domain]), 1e-9) for domain, images in made.items()}
        poor = [
            f"{domain} {share:.3f}" for domain, share in shares.items() if share < training.config.watchdog.diversity
        ]
        text = f"samples are alike (distance as a share of the data's: {', '.join(poor)})" if poor else None
        self._report(training, "collapsed", text, training.seen - interval)

    def _report(self, training: Training, trouble: str, text: str | None, before: int) -> None:
        """Tell `text` when `trouble` begins; `before` is the image by which all was still well."""
        if text is None:
            self._told.discard(trouble)
            return
        if trouble in self._told:
            return
        self._told.add(trouble)
        rules = training.config.watchdog
        wish = _ACTIONS[rules.action]
        if wish is Verdict.ROLL_BACK and training.state.attempt >= rules.rollbacks:
            text, wish = f"{text}, after {training.state.attempt} rollbacks", Verdict.STOP
        training.reporter.event(f"watchdog: {text}")
        training.wish = max(training.wish, wish)
        training.sound_until = min(training.sound_until, max(before, 0))


def _diversity(images: Tensor) -> float:
    """The mean distance (L1 a value) between two of the images [n, c, h, w]."""
    flat = images.float().flatten(1)
    pairs = torch.cdist(flat, flat, p=1).sum() / max(len(flat) * (len(flat) - 1), 1)
    return float(pairs) / flat.shape[1]
