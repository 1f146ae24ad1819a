"""Evaluations during training: a metric of generated images, whose figures are logged like losses."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np

from trainer import registry
from trainer.data.tensors import denormalize, to_tensor
from trainer.hooks.base import Hook, Stage, Training
from trainer.hooks.samples import images_to_show
from trainer.metrics.base import Images, Integers, Metric, evaluate_generator
from trainer.run_config import EvaluationSection
from trainer.tasks.build import evaluated_domain

EVALUATION_NUMBERS = 2**62 + 2**32
"""The first example number of the evaluated draws. Training and sample grids use smaller numbers."""


class Evaluation(Hook):
    """Computes the metric every `evaluation.interval_images` images and at the end. The ranks share the work."""

    stage: ClassVar[Stage] = Stage.MEASURE

    def start(self, training: Training) -> None:
        """Choose the domain, read the images that translators need, and try the metric on a few images.

        Raises:
            trainer.errors.ConfigError: `evaluation.domain` is not a domain that the task generates.
            trainer.errors.DataError: the metric is not for such images.
        """
        section = training.config.evaluation
        if section is None:
            return
        exports = training.task.exports().values()
        self._domain = evaluated_domain(training.task, section)
        sources = sorted({export.source for export in exports if export.source is not None})
        self._images = {domain: np.stack(images_to_show(training, domain, section.images)) for domain in sources}
        self._count = min([section.images, *(len(images) for images in self._images.values())])
        images, labels = self._generate(training, np.arange(min(2, self._count)))
        self._metric(training, section).update(images, labels)

    def after_step(self, training: Training) -> None:
        """Evaluate when it is due. Rank 0 logs the figures."""
        section = training.config.evaluation
        if section is not None and training.due(section.interval_images):
            generate = partial(self._generate, training)
            metric = self._metric(training, section)
            scores = evaluate_generator(metric, generate, self._count, section.batch, training.ranks)
            for name, value in scores.items():
                training.log(name, value)

    def _metric(self, training: Training, section: EvaluationSection) -> Metric:
        metric: Metric = registry.build(section.metric, seed=training.config.run.seed)
        return metric

    def _generate(self, training: Training, numbers: Integers) -> tuple[Images, Integers | None]:
        """Generate the images of `numbers`, uint8 [n, h, w, c], and return them with their labels, if they have any."""
        images = {domain: to_tensor(list(array[numbers])) for domain, array in self._images.items()}
        batch = training.make_batch(images, numbers + EVALUATION_NUMBERS)
        with training.evaluating() as generators:
            generated = training.task.generate(generators, batch)[self._domain]
        labels = None if batch.labels is None else batch.labels.cpu().numpy()
        return denormalize(generated).cpu().permute(0, 2, 3, 1).numpy(), labels
