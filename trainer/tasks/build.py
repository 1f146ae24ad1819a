"""Builds a run's dataset and task, and checks by shapes alone whether they fit together."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer import registry
from trainer.data.base import DataConfig, Dataset, DataSpec, ImageSpec
from trainer.errors import ConfigError, DataError
from trainer.models.base import Translator
from trainer.run_config import EvaluationSection, RunConfig
from trainer.tasks.base import Batch, Task, trained_sets


def build_dataset(config: RunConfig) -> Dataset:
    """Return the run's dataset.

    Raises:
        DataError: images are missing, or fewer than one step takes.
    """
    dataset: Dataset = registry.build(config.data, seed=config.run.seed)
    for domain in dataset.spec.domains:
        if dataset.count(domain) < config.batch.global_size:
            raise DataError(
                f"data: {dataset.count(domain)} training images ({domain}) are fewer than batch.global_size "
                f"({config.batch.global_size}): add images or make the batch smaller"
            )
    return dataset


def data_spec(config: RunConfig) -> DataSpec:
    """Return the `DataSpec` of the run's dataset, without reading a file.

    Raises:
        TypeError: the dataset's Config is not a DataConfig, which is an error of its author.
    """
    if not isinstance(config.data, DataConfig):
        raise TypeError(
            f"data {registry.type_of(config.data)}: its nested Config must be a trainer.data.base.DataConfig"
        )
    return config.data.spec()


def build_task(config: RunConfig) -> Task:
    """Return the run's task. Its initial weights follow from the run's seed: they are equal on every worker.

    Raises:
        ConfigError: a component does not fit its place in the config.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)
        task: Task = registry.build(config.task, seed=config.run.seed, global_size=config.batch.global_size)
    return task


def make_batch(
    task: Task,
    images: dict[str, Tensor],
    numbers: NDArray[np.int64],
    labels: NDArray[np.int64] | None = None,
    *,
    seed: int,
    device: torch.device,
) -> Batch:
    """Return a batch outside training, on `device`.

    Its images are `images`, float32 [b, c, h, w] in -1..1 by domain, its labels `labels`, [b], and its draws those of
    `Task.prepare` for the example `numbers`, [b].
    """
    draws = {name: torch.from_numpy(array).to(device) for name, array in task.prepare(numbers, seed).items()}
    on_device = None if labels is None else torch.from_numpy(labels).to(device)
    return Batch(torch.from_numpy(numbers), {d: image.to(device) for d, image in images.items()}, on_device, draws)


def black_batch(task: Task, spec: DataSpec, count: int, device: torch.device) -> Batch:
    """Return a batch of `count` examples of the shapes of `spec`, with images of zeros and labels 0."""
    shapes = {name: (count, image.channels, image.size or 0, image.size or 0) for name, image in spec.domains.items()}
    images = {name: torch.zeros(shape, device=device) for name, shape in shapes.items()}
    labels = None if spec.classes is None else np.zeros(count, np.int64)
    return make_batch(task, images, np.arange(count), labels, seed=0, device=device)


def check_fit(config: RunConfig) -> None:
    """Run each phase once without data or memory (on PyTorch's meta device).

    Raises:
        ConfigError: the task, its networks and the images do not fit together; the message says where.
    """
    spec = data_spec(config)
    with torch.device("meta"):
        task = build_task(config)
    trained_sets(task.phases)
    for name, module in task.networks.named_modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            # Torch's generator draws its masks: a resume and other ranks would not see the same ones.
            raise ConfigError(f"{name} is a dropout, which cannot be trained reproducibly: set dropout: false")
    _check_data(config, task.data(), spec)
    if config.evaluation is not None:
        evaluated_domain(task, config.evaluation)
    for name, export in task.exports().items():
        if export.source is not None:
            _check_size(name, task.networks[name], spec.domains[export.source])
    batch = black_batch(task, spec, config.micro_size, torch.device("meta"))
    for phase in task.phases:
        try:
            task.losses(phase, batch)
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            shapes = ", ".join(_shape_text(name, image) for name, image in spec.domains.items())
            raise ConfigError(f"the {phase.name}'s networks cannot take {shapes}: {reason}") from error


def evaluated_domain(task: Task, evaluation: EvaluationSection) -> str:
    """Return the domain whose images are evaluated: the section's, or the only one that the task generates.

    Raises:
        ConfigError: the task does not generate the domain, or it generates several and the section names none.
    """
    domains = sorted({export.target for export in task.exports().values()})
    domain = evaluation.domain or domains[0]
    if domain not in domains or (evaluation.domain is None and len(domains) > 1):
        raise ConfigError(f"evaluation.domain = {evaluation.domain}: give one of {', '.join(domains)}")
    return domain


def _check_data(config: RunConfig, needed: DataSpec, spec: DataSpec) -> None:
    """Compare what the task needs of a dataset with what the run's dataset has."""
    task, data = f"task {registry.type_of(config.task)}", f"data {registry.type_of(config.data)}"
    if needed.domains.keys() != spec.domains.keys():
        raise ConfigError(
            f"{task} needs the domains {', '.join(needed.domains)}, but {data} has {', '.join(spec.domains)}"
        )
    for domain, needed_image in needed.domains.items():
        image = spec.domains[domain]
        if needed_image.channels != image.channels or needed_image.size not in (None, image.size):
            raise ConfigError(
                f"{task} is for {_shape_text(domain, needed_image)}, but {data} has {_shape_text(domain, image)}: "
                "set the generator's size: ${data.size} and its channels: ${data.channels}"
            )
    if needed.classes is not None and needed.classes != spec.classes:
        classes = f"{spec.classes} classes" if spec.classes else "no classes"
        raise ConfigError(f"{task} is for {needed.classes} classes, but {data} has {classes}")
    if needed.paired and not spec.paired:
        raise ConfigError(f"{task} needs pairs of images that belong together, but {data} is unpaired")


def _check_size(name: str, network: object, image: ImageSpec) -> None:
    """Check that a translator accepts the size of its source images."""
    if not isinstance(network, Translator) or image.size is None:
        return
    if image.size % network.size_multiple or image.size < network.minimum_size:
        raise ConfigError(
            f"data.size = {image.size}: {name} takes multiples of {network.size_multiple} from "
            f"{network.minimum_size} up"
        )


def _shape_text(domain: str, image: ImageSpec) -> str:
    size = "" if image.size is None else f"{image.size}x{image.size} "
    return f"{size}images with {image.channels} channels ({domain})"
