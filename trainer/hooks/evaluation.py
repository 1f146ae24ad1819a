"""Evaluations during training: a metric of generated images, whose figures are logged like losses."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trainer import registry
from trainer.data.tensors import denormalize, to_tensor
from trainer.errors import ConfigError
from trainer.hooks.base import Hook, Stage, Training
from trainer.metrics.base import evaluate_generator
from trainer.run_config import EvaluationSection

EVALUATION_NUMBERS = 2**62 + 2**32
"""The first example number of the evaluated draws. Training and sample grids use smaller numbers."""


class Evaluation(Hook):
    """Computes the metric every `evaluation.interval_images` images and at the end. The ranks share the work."""

    stage: ClassVar[Stage] = Stage.MEASURE

    def start(self, training: Training) -> None:
        """Choose the domain, and read the held-out images that translators need.

        Raises:
            trainer.errors.ConfigError: `evaluation.domain` is not a domain that the task generates.
        """
        section = training.config.evaluation
        if section is None:
            return
        exports = training.task.exports().values()
        domains = sorted({export.target for export in exports})
        self._domain = section.domain or domains[0]
        if self._domain not in domains or (section.domain is None and len(domains) > 1):
            raise ConfigError(f"evaluation.domain = {section.domain}: give one of {', '.join(domains)}")
        sources = {export.source for export in exports if export.source is not None}
        held_out = {domain: training.dataset.held_out(domain, section.images) for domain in sorted(sources)}
        self._images = {domain: np.stack(images) for domain, images in held_out.items() if images}
        self._count = min([section.images, *(len(images) for images in self._images.values())])

    def after_step(self, training: Training) -> None:
        """Evaluate when it is due. Rank 0 logs the figures."""
        section = training.config.evaluation
        if section is not None and training.due(section.interval_images):
            for name, value in self._evaluate(training, section).items():
                training.log(name, value)

    def _evaluate(self, training: Training, section: EvaluationSection) -> dict[str, float]:
        def generate(numbers: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
            images = {domain: to_tensor(list(array[numbers])) for domain, array in self._images.items()}
            batch = training.make_batch(images, numbers + EVALUATION_NUMBERS)
            with training.evaluating() as generators:
                generated = training.task.generate(generators, batch)[self._domain]
            pixels = denormalize(generated).cpu()
            labels = None if batch.labels is None else batch.labels.cpu().numpy()
            return pixels.permute(0, 2, 3, 1).numpy(), labels

        metric = registry.build(section.metric, seed=training.config.run.seed)
        return evaluate_generator(metric, generate, self._count, section.batch, training.ranks)
